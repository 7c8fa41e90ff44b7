"""What people have, read as a workload's events: formats, the columns document, casts, and guesses about both."""

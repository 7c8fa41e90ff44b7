"""The prediction log: its tables, their history, and how they are read."""

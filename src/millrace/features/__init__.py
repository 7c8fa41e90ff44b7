"""Features over whole days, whatever they mean: what a workload's `batch` is given, and what it gives back."""

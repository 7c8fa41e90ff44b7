"""What can be seen of a running program: progress and logs, metrics, traces."""

"""The workload: card fraud. The only package that knows about cards and terminals."""

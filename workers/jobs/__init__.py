"""Job workers: long jobs, each in its own process."""

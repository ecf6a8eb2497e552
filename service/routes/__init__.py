"""One module per group of endpoints: translates HTTP and nothing else."""

"""Style transfers and dreams: jobs that make images."""

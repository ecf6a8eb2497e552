"""Background jobs: rows, leases and files."""

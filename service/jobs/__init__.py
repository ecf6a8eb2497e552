"""Job endpoints: creation, status, events and artifacts."""

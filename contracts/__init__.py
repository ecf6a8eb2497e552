"""What the API, the workers and the command line agree on. Nothing in here does I/O."""

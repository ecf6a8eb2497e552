"""Where work comes from, and its traces: which request caused it, and how long each part took."""

"""What metrics and traces cost, and the picture of a trace."""

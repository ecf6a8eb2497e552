"""Style transfer, by optimization and by a trained network."""

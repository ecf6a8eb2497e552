"""From an image to aligned, measured faces."""

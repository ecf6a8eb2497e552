"""Heatmaps, feature maps and filter patterns of a version, and how far to trust them."""

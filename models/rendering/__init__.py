"""Draws heatmaps, legends and contact sheets with Pillow and NumPy."""

"""Heatmap, activation, filter and layer endpoints."""

"""Finds the subjects whose templates are like a face."""

"""Labeled images to learn from: imported, split and counted. Does not import TensorFlow."""

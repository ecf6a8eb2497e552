"""Decoding and resizing images. Free of TensorFlow."""

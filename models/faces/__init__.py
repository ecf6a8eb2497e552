"""Faces in pictures: found, measured, straightened and turned into numbers that can be compared."""

"""Schemas of the jobs that make images: style transfer and dreams."""

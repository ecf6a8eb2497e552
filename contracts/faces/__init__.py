"""Schemas of the face endpoints."""

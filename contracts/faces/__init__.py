"""Schemas of the face endpoints, of their queue messages and of their jobs."""

"""Clients of a running service, and their local counterparts."""

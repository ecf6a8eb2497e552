"""Clients of a running service, and the client that needs none."""

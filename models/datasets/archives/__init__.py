"""Reads zip and tar archives and folders safely, within limits."""

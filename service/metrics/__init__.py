"""Counts requests, publishes the counts, and answers `/metrics`."""

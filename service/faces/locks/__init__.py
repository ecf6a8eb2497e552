"""Counts failed attempts, and locks out who causes them."""

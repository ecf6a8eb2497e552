"""Training endpoints."""

"""Dataset endpoints."""

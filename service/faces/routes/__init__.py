"""Face routes."""

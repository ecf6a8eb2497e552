"""Classification and embedding endpoints."""

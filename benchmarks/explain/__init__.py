"""What explanations cost, and how faithful they are."""

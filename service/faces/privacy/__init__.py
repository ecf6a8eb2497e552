"""What people may ask for: erasure, export, and an end to what is kept."""

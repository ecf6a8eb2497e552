"""What a connection may do before and around its requests."""

"""Process supervision: the API, the workers and the embedded Valkey."""

"""The HTTP API. Never loads TensorFlow."""

"""Model, version and quantization endpoints."""

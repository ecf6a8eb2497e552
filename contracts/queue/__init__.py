"""What the API and the workers agree on about the inference queue: names, bytes and scripts."""

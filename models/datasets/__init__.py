"""Pictures with labels, to learn from: admitted, split and counted. Knows no TensorFlow."""

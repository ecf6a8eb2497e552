"""The report of a training: scores, charts and the TensorBoard log."""

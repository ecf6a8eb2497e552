"""The Open Inference Protocol and TensorFlow Serving's REST API."""

"""What runs a version: TensorFlow, or OpenVINO reading the same SavedModel."""

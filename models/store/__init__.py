"""The model store: versions, aliases and manifests on disk. Free of TensorFlow."""

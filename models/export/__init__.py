"""Exports a Keras network to the files of a model version."""

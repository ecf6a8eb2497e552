"""Schemas of classification, explanation and the model registry."""

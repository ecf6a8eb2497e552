"""Micro-batch inference: the worker end of the inference queue."""

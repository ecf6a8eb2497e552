"""Warnings that Keras and TensorFlow cause in each other."""

import pytest

# Keras copies TensorFlow's tensors with a call that NumPy 2 has renamed.
ignored = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

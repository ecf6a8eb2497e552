"""What Keras and TensorFlow warn of between themselves; nothing of ours."""

import pytest

# Keras copies TensorFlow's tensors by a call that NumPy 2 has renamed.
ignored = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

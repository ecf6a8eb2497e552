"""What Keras would load and Opsin does not use stays out, but is there for others."""

import subprocess
import sys

PROGRAM = """
import sys
import models
import keras
print([name for name in ("sklearn", "matplotlib") if name in sys.modules])
import matplotlib.pyplot
print(keras.layers.Dense(2)(keras.Input([3])).shape, matplotlib.pyplot.figure is not None)
"""


def test_keras_is_imported_without_what_nobody_uses() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.splitlines() == ["[]", "(None, 2) True"]

"""Reads whole Keras models (`.keras`), and writes weights as HDF5 in the tutorials' format.

Reading never runs code from the file: Keras's safe mode is on, and an architecture may contain only
Keras's own layers. Nevertheless files come only from us or from a publisher, verified, and never
from clients.
"""

import json
import zipfile
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

# Not all of Keras, because some of its functions fetch and write files.
_MODULES = frozenset(
    (
        "keras",
        "keras.initializers",
        "keras.layers",
        "keras.regularizers",
        "keras.src.models.functional",
        "keras.src.models.sequential",
    )
)


class UnsafeModelError(ValueError):
    """The file contains something other than Keras's own layers, or is damaged."""


def read_whole(path: Path) -> keras.Model:
    """Read a `.keras` file; the model is not compiled.

    Raises:
        UnsafeModelError: It contains more than layers and weights, or is damaged.
    """
    if path.suffix != ".keras":  # Keras has no safe mode for whole models in HDF5
        raise UnsafeModelError("a whole model is read from a .keras file only")
    try:
        with zipfile.ZipFile(path) as archive:
            _refuse_foreign(json.loads(archive.read("config.json")))
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except UnsafeModelError:
        raise
    except (ValueError, TypeError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise UnsafeModelError("the model cannot be read safely") from error


def write_tutorial_weights(model: keras.Model, path: Path) -> None:
    """Write the weights in the tutorials' format: a group per layer, its arrays in order."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.name.encode() for layer in model.layers]
        file.attrs["backend"] = b"tensorflow"
        file.attrs["keras_version"] = keras.__version__.encode()
        for layer in model.layers:
            group = file.create_group(layer.name)
            names = [f"{layer.name}/{weight.name}:0" for weight in layer.weights]
            group.attrs["weight_names"] = np.array([name.encode() for name in names], dtype="S")
            for name, weight in zip(names, layer.weights, strict=True):
                group.create_dataset(name, data=weight.numpy())


def _refuse_foreign(config: Any) -> None:
    """Check every class in an architecture, at any depth; it never contains functions."""
    if isinstance(config, dict):
        name = config.get("class_name")
        known = config.get("module") in _MODULES and name != "Lambda"
        if name is not None and not known and name != "__keras_tensor__":
            raise UnsafeModelError("the model contains something other than Keras's own layers")
        for value in config.values():
            _refuse_foreign(value)
    elif isinstance(config, list):
        for value in config:
            _refuse_foreign(value)

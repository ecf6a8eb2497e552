"""Reads and writes Keras models in the usual file formats.

    whole model     architecture and weights                  model.keras
    architecture    JSON                                      model.json
    weights         Keras 3's format                          model.weights.h5
    weights         the tutorials' HDF5, a group per layer    (VGG16's and SqueezeNet's files)

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

from models.networks.loading import load_weights

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


def write_whole(model: keras.Model, path: Path) -> None:
    """Write architecture and weights to one `.keras` file."""
    model.save(path)


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


def write_architecture(model: keras.Model, path: Path) -> None:
    """Write the layers and their connections as JSON."""
    path.write_text(model.to_json(indent=1), encoding="utf-8")


def read_architecture(path: Path) -> keras.Model:
    """Read a JSON architecture; the model has random weights.

    Raises:
        UnsafeModelError: It contains other classes than Keras's own, or is damaged.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        _refuse_foreign(config)
        model = keras.saving.deserialize_keras_object(config, safe_mode=True)
    except UnsafeModelError:
        raise
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UnsafeModelError("the architecture cannot be read") from error
    if not isinstance(model, keras.Model):
        raise UnsafeModelError("the architecture is not that of a model")
    return model


def write_weights(model: keras.Model, path: Path) -> None:
    """Write the weights in Keras 3's format (`.weights.h5`)."""
    model.save_weights(path)


def read_weights(model: keras.Model, path: Path) -> None:
    """Load weights in Keras 3's format into a model.

    Raises:
        ValueError: The file belongs to another model.
    """
    model.load_weights(path)


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


def read_tutorial_weights(model: keras.Model, path: Path) -> None:
    """Load the tutorials' HDF5 into a model: VGG16 with or without its top, SqueezeNet.

    Layers that the model does not have are ignored, so a base can be loaded from the file of a
    whole network. A slash in a layer's name is read as an underscore.

    Raises:
        WeightsMismatchError: A layer of the model is missing in the file or has another shape.
    """
    load_weights(model, model.name, path, "keras_h5")


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

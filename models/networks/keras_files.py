"""Keras models on the disk in the layouts people keep them in: read and write, each alone.

    whole           architecture and weights            model.keras
    architecture    JSON                                model.json
    weights         Keras 3's own                       model.weights.h5
    weights         the tutorials' HDF5, a group a layer (VGG16's and SqueezeNet's files)

Reading never runs code from the file: Keras's safe mode is on, and an architecture may name
Keras's own layers only. Files still come from us or from a publisher, checked, never from
clients.
"""

import json
import zipfile
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

from models.networks.loading import load_weights

# Not all of Keras: among its functions are some that fetch and write files.
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
    """The file holds something other than Keras's own layers, or is broken."""


def write_whole(model: keras.Model, path: Path) -> None:
    """Architecture and weights in one `.keras` file."""
    model.save(path)


def read_whole(path: Path) -> keras.Model:
    """The model of a `.keras` file, not compiled.

    Raises:
        UnsafeModelError: It holds more than layers and weights, or is broken.
    """
    if path.suffix != ".keras":  # a whole model in HDF5 is read by code without a safe mode
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
    """The layers and how they are joined, as JSON."""
    path.write_text(model.to_json(indent=1), encoding="utf-8")


def read_architecture(path: Path) -> keras.Model:
    """The model of a JSON file, with random weights.

    Raises:
        UnsafeModelError: It names anything but Keras's own classes, or is broken.
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
        raise UnsafeModelError("the architecture is no model's")
    return model


def write_weights(model: keras.Model, path: Path) -> None:
    """The weights alone, in Keras 3's layout (`.weights.h5`)."""
    model.save_weights(path)


def read_weights(model: keras.Model, path: Path) -> None:
    """Fill a model from Keras 3's layout.

    Raises:
        ValueError: The file is another model's.
    """
    model.load_weights(path)


def write_tutorial_weights(model: keras.Model, path: Path) -> None:
    """The weights alone as the tutorials have them: a group a layer, its arrays in order."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.name.encode() for layer in model.layers]
        file.attrs["backend"] = b"tensorflow"
        for layer in model.layers:
            group = file.create_group(layer.name)
            names = [f"{layer.name}/{weight.name}:0" for weight in layer.weights]
            group.attrs["weight_names"] = np.array([name.encode() for name in names], dtype="S")
            for name, weight in zip(names, layer.weights, strict=True):
                group.create_dataset(name, data=weight.numpy())


def read_tutorial_weights(model: keras.Model, path: Path) -> None:
    """Fill a model from the tutorials' HDF5: VGG16's with and without its top, SqueezeNet's.

    Layers the model does not have are left aside, so a base is filled from a whole network's
    file; a slash in a layer's name is read as an underscore.

    Raises:
        MisfitError: A layer of the model is not in the file, or has another shape there.
    """
    load_weights(model, model.name, path, "keras_h5")


def _refuse_foreign(config: Any) -> None:
    """Look at every class an architecture names, however deep; functions are never named."""
    if isinstance(config, dict):
        name = config.get("class_name")
        known = config.get("module") in _MODULES and name != "Lambda"
        if name is not None and not known and name != "__keras_tensor__":
            raise UnsafeModelError("the model names something other than Keras's own layers")
        for value in config.values():
            _refuse_foreign(value)
    elif isinstance(config, list):
        for value in config:
            _refuse_foreign(value)

"""A tiny network in a store, for tests that explain a version."""

from pathlib import Path

import keras
import numpy as np

from models.export.saved_model import export_version
from models.export.signatures import Blueprint
from models.networks.cnn import cnn
from models.store.labels import Label
from models.store.store import Store

SIDE = 16
BLUEPRINT = Blueprint("cnn_small", SIDE, "cover", "unit", "pool2", "conv2")


def sample_images(count: int) -> np.ndarray:
    return np.random.default_rng(8).integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)


def tiny(classes: int = 3) -> keras.Model:
    keras.utils.set_random_seed(8)
    return cnn("cnn_small", input_shape=(SIDE, SIDE, 3), classes=classes)


def published(
    root: Path, model: keras.Model, name: str = "tiny", blueprint: Blueprint = BLUEPRINT
) -> Path:
    """The folder of a version that holds `model`."""
    store = Store(root)
    classes = max(2, int(model.outputs[0].shape[-1]))  # one sigmoid is two classes
    labels = [Label(str(n), f"class {n}") for n in range(classes)]
    with store.staging() as folder:
        draft = export_version(model, blueprint, folder, images=sample_images(2), labels=labels)
        version = store.publish(name, folder, draft)
    store.promote(name, version)
    return store.path(name, version)

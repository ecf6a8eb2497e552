"""A tiny version in a store, real in every part: exported by Keras, run by every runtime."""

from pathlib import Path

import keras
import numpy as np
import pytest

from models.export.saved_model import export_version
from models.export.signatures import Blueprint
from models.networks.cnn import cnn
from models.store.labels import Label
from models.store.store import Store

LABELS = [Label("c", "cat"), Label("d", "dog")]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """`pets` 1: two classes, 16 pixels."""
    keras.utils.set_random_seed(8)
    model = cnn("cnn_small", input_shape=(16, 16, 3), classes=2)
    store = Store(tmp_path_factory.mktemp("home") / "store")
    with store.staging() as folder:
        draft = export_version(
            model,
            Blueprint("cnn_small", 16, "cover", "unit", "pool2", "conv2"),
            folder,
            images=np.random.default_rng(8).integers(0, 256, (3, 16, 16, 3), np.uint8),
            labels=LABELS,
        )
        store.promote("pets", store.publish("pets", folder, draft))
    return store


@pytest.fixture(scope="module")
def folder(tiny: Store) -> Path:
    return tiny.path("pets", 1)

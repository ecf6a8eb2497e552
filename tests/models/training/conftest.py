"""Fixtures of the training tests: a dataset of two colors, a recorder, a network's weights."""

import hashlib
from pathlib import Path

import keras
import numpy as np
import pytest

from models.catalog import CATALOG
from models.datasets.dataset import Dataset
from models.networks.architecture import build
from models.training.data.feature_cache import FeatureCache
from models.training.loop.trainer import TrainingEnvironment
from models.weights.catalog import Weights
from models.weights.sources import WeightEntry
from tests.models.training.samples import RecordingWork, colors, weight_entry


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return colors(tmp_path_factory.mktemp("colors"))


@pytest.fixture
def work(tmp_path: Path) -> RecordingWork:
    return RecordingWork(tmp_path / "work")


@pytest.fixture(scope="session")
def squeezenet_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of a SqueezeNet, in the format of its publisher."""
    keras.utils.set_random_seed(8)
    base = build(CATALOG["squeezenet"], input_size=(64, 64), include_top=False)
    arrays = {
        f"{layer.name}/{part}": np.asarray(weight)
        for layer in base.layers
        for part, weight in zip(("kernel", "bias"), layer.weights, strict=False)
    }
    path = tmp_path_factory.mktemp("weights") / "squeezenet.npz"
    np.savez(path, **arrays)
    return path


@pytest.fixture
def entries(squeezenet_file: Path) -> dict[str, WeightEntry]:
    digest = hashlib.sha256(squeezenet_file.read_bytes()).hexdigest()
    return {"squeezenet": weight_entry(squeezenet_file.name, digest)}


@pytest.fixture
def environment(
    tmp_path: Path, squeezenet_file: Path, entries: dict[str, WeightEntry]
) -> TrainingEnvironment:
    weights = Weights(tmp_path / "home", squeezenet_file.parent, True, entries=entries)
    return TrainingEnvironment(weights, FeatureCache(tmp_path / "cache"), threads=2)

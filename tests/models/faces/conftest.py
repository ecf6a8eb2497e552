"""The face finder and analyzer with their published weights; without them, tests are skipped."""

from functools import partial
from pathlib import Path

import pytest

from contracts.errors import ModelNotFound, VersionNotFound
from contracts.faces.faces import FACE_MODEL
from models.faces.analyzer import FaceAnalyzer
from models.faces.detection.finder import FaceFinder, open_finder
from models.serving.predictor import load_version
from models.serving.runtime import RuntimeOptions
from models.store.store import Store
from models.weights.catalog import Weights, WeightsMissing


@pytest.fixture(scope="session")
def finder(fetched: Path) -> FaceFinder:
    try:
        return open_finder(Weights(fetched / "weights", None, True), threads=1)
    except WeightsMissing as missing:
        pytest.skip(missing.detail)


@pytest.fixture(scope="session")
def people(shared: Path) -> list[Path]:
    """Images of one large face each, sorted by person."""
    return sorted((shared / "data/face-pairs").glob("*/*.jpg"))


@pytest.fixture(scope="session")
def analyzer(finder: FaceFinder, fetched: Path) -> FaceAnalyzer:
    """An analyzer with the real embedder, if it has been imported."""
    try:
        network = load_version(
            Store(fetched / "store"),
            FACE_MODEL,
            max_batch_size=4,
            options=RuntimeOptions(runtime="openvino", threads=1),
        )
    except (ModelNotFound, VersionNotFound) as missing:
        pytest.skip(missing.detail)
    return FaceAnalyzer(finder, partial(network.run, "embed"), network.version)

"""What finds faces, with its published weights; tests are skipped where they are not."""

from pathlib import Path

import pytest

from models.faces.finder import FaceFinder, open_finder
from models.weights import Weights, WeightsMissing


@pytest.fixture(scope="session")
def finder(fetched: Path) -> FaceFinder:
    try:
        return open_finder(Weights(fetched / "weights", None, True), threads=1)
    except WeightsMissing as missing:
        pytest.skip(missing.detail)


@pytest.fixture(scope="session")
def people(shared: Path) -> list[Path]:
    """Photographs of one large face each, the people in order."""
    return sorted((shared / "data/face-pairs").glob("*/*.jpg"))

"""Images that are too small or too narrow for a network."""

from pathlib import Path

import numpy as np
import pytest

from contracts.create.requests import CONTENT_FILE, IMAGE_FILE, StyleNetwork, style_file
from contracts.errors import ValidationFailed
from contracts.settings import Settings
from models.create.dream_job import run as run_dream
from models.create.features import LAYERS, FeatureNetwork
from models.create.images import enlarged, required
from models.create.style.job import run as run_style
from models.create.style.weights import MINIMUM_SIDES
from models.networks.architecture import ARCHITECTURES
from tests.models import keras_warnings
from tests.models.create.image_work import ImageJobWork, photo, png
from tests.models.explain.versions import published, tiny

pytestmark = keras_warnings.ignored


@pytest.mark.parametrize("name", ["vgg16", "squeezenet"])
def test_smallest_side_is_that_of_the_network(name: StyleNetwork) -> None:
    layers = LAYERS[name]
    model = ARCHITECTURES[name].build(input_shape=(None, None, 3), include_top=False)
    network = FeatureNetwork(model, [*layers.content, *layers.style], "average", "float32")
    assert network.minimum_side == MINIMUM_SIDES[name]


def test_narrow_image_is_enlarged_in_proportion() -> None:
    assert enlarged((400, 20), 16) == (400, 20)
    assert enlarged((400, 8), 16) == (800, 16)
    with pytest.raises(ValidationFailed, match="too narrow"):
        enlarged((8000, 2), 16)


def test_what_is_too_small_is_refused_with_the_size_that_is_not() -> None:
    with pytest.raises(ValidationFailed, match="size=800"):
        required((400, 8), 16)
    with pytest.raises(ValidationFailed, match="part of the image"):
        required((8000, 8), 16)


@pytest.mark.shared
@pytest.mark.parametrize("method", ["content", "noise", "style"])
def test_narrow_content_is_painted(shared: Path, tmp_path: Path, method: str) -> None:
    """Before, an empty map ended the process."""
    (tmp_path / CONTENT_FILE).write_bytes(png(photo(200, 16)))
    (tmp_path / style_file(0)).write_bytes(png(photo(16, 120, 2)))
    request = {"network": "squeezenet", "iterations": 2, "styles": 1, "init": method}
    work = ImageJobWork(request, tmp_path)
    settings = Settings(_env_file=None, home=tmp_path, weights_dir=shared / "weights")
    run_style(work, settings)
    assert work.image().shape == (31, 388, 3)


def test_tiny_image_dreams(tmp_path: Path) -> None:
    published(tmp_path / "store", tiny())
    (tmp_path / IMAGE_FILE).write_bytes(png(photo(16, 16)))
    request = {"model": "tiny", "version": "1", "octaves": 3, "iterations": 2}
    work = ImageJobWork(request, tmp_path)
    run_dream(work, Settings(_env_file=None, home=tmp_path))
    assert min(work.image().shape[:2]) >= 16
    assert np.ptp(work.image()) > 0

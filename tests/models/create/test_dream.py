"""Dreams with a small network and with trained versions, in tiles and in whole."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from contracts.create.requests import IMAGE_FILE, DreamRequest
from contracts.errors import LayerNotFound, ValidationFailed
from contracts.settings import Settings
from contracts.work import WorkStoppedError
from models.create.dream import Dream, DreamNetwork, smoothed
from models.create.dream_job import run as run_job
from models.create.run import ImageRun
from tests.models import keras_warnings
from tests.models.create.image_work import ImageJobWork, photo, png
from tests.models.explain.versions import published, tiny

pytestmark = keras_warnings.ignored

IMAGE = np.asarray(photo(90, 70), np.float32)


def network(**options: Any) -> DreamNetwork:
    keras.utils.set_random_seed(3)
    image = keras.Input((32, 32, 3))
    x = layers.Conv2D(6, 3, padding="same", activation="relu", name="conv")(image)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dense(4, "softmax", name="predictions")(x)
    return DreamNetwork(
        keras.Model(image, x), "unit", options.pop("layers", {"conv": 1.0}), **options
    )


def dreamt(work: ImageJobWork, dreaming: DreamNetwork, **options: Any) -> ImageJobWork:
    request = DreamRequest(**({"octaves": 2, "iterations": 12, "step_size": 1.5} | options))
    run = ImageRun(work, steps=24, settings={}, preview_every=1000)
    run.finish(Dream(dreaming, request, IMAGE).run(run))
    return work


def test_layer_is_excited_more(tmp_path: Path) -> None:
    dreaming = network()
    work = dreamt(ImageJobWork({}, tmp_path), dreaming)
    before, after = (dreaming.gradient(x)[0] for x in (IMAGE, work.image().astype(np.float32)))
    assert after > before + 0.3
    scores = [row["score"] for row in work.rows.values()]
    assert scores[11] > scores[0]
    assert scores[23] > scores[12]


def test_class_is_excited_more(tmp_path: Path) -> None:
    dreaming = network(layers={}, class_index=2)
    work = dreamt(ImageJobWork({}, tmp_path), dreaming)
    before, after = (dreaming.gradient(x)[0] for x in (IMAGE, work.image().astype(np.float32)))
    assert after > before


def test_gradient_in_tiles_is_that_of_the_whole_away_from_their_edges() -> None:
    dreaming = network()
    whole = dreaming.gradient(IMAGE)[1]
    request = DreamRequest(tile_size=64)
    _, tiled = Dream(dreaming, request, IMAGE)._whole_gradient(IMAGE, lambda: None)
    assert tiled.shape == whole.shape
    inside = tiled[4:5, 4:20], whole[4:5, 4:20]
    unit = [one / np.linalg.norm(one) for one in inside]
    np.testing.assert_allclose(*unit, atol=1e-3)


def test_stopped_dream_ends_with_the_same_image(tmp_path: Path) -> None:
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    whole = dreamt(ImageJobWork({}, tmp_path / "whole"), network(), tile_size=64)
    for stop_at in (37, 20):
        work = ImageJobWork({}, tmp_path / "stopped", stop_at=stop_at)
        with pytest.raises(WorkStoppedError):
            dreamt(work, network(), tile_size=64)
        assert "preview.png" in work.files
    resumed = dreamt(ImageJobWork({}, tmp_path / "stopped"), network(), tile_size=64)
    np.testing.assert_array_equal(resumed.image(), whole.image())


@pytest.mark.parametrize(
    "options",
    [
        {"layers": ["conv1", "conv2"]},
        {"class_index": 1},
        {"layers": ["conv2"], "class_index": 1, "class_weight": 3.0},
    ],
)
def test_trained_version_dreams(tmp_path: Path, options: dict[str, Any]) -> None:
    """Its dense layers take maps of one size, so that a class is dreamt of in tiles of it."""
    published(tmp_path / "store", tiny())
    (tmp_path / IMAGE_FILE).write_bytes(png(photo(60, 40)))
    request = {"model": "tiny", "version": "1", "octaves": 2, "iterations": 2} | options
    work = ImageJobWork(request, tmp_path)
    result = run_job(work, Settings(_env_file=None, home=tmp_path))
    assert work.image().shape == (40, 60, 3)
    assert not np.array_equal(work.image(), np.asarray(photo(60, 40)))
    assert (result["model"], result["version"]) == ("tiny", 1)
    assert work.settings()["width"] == 60
    assert work.settings()["smoothing"] == 1.0
    assert (result["step_levels"], result["warnings"]) == (2.0, [])


@pytest.mark.parametrize("size", [(24, 16), (16, 24)])
def test_a_class_is_dreamt_of_in_tiles_of_the_input_that_a_flattened_head_takes(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    image = keras.Input((*size, 3))
    x = layers.Conv2D(4, 3, padding="same", activation="relu")(image)
    x = layers.Dense(3, "softmax", name="predictions")(layers.Flatten()(x))
    dreaming = DreamNetwork(keras.Model(image, x), "unit", {}, class_index=0)
    assert dreaming.fixed_size == size
    for shape in ((70, 90, 3), (20, 20, 3)):
        original = np.ascontiguousarray(IMAGE[: shape[0], : shape[1]])
        dream = Dream(dreaming, DreamRequest(class_index=0, tile_size=64), original)
        assert dream._whole_gradient(original, lambda: None)[1].shape == shape
    assert dreamt(ImageJobWork({}, tmp_path), dreaming, class_index=0).image().shape == IMAGE.shape


def test_smoothing_takes_dots_and_leaves_shapes() -> None:
    rows, columns = np.mgrid[:64, :64]
    dots = ((rows + columns) % 2 * 2 - 1).astype(np.float32)[..., np.newaxis].repeat(3, -1)
    shape = np.sin(columns * 2 * np.pi / 32).astype(np.float32)[..., np.newaxis].repeat(3, -1)
    assert np.abs(smoothed(dots, 1.0)).mean() < 0.4
    assert np.abs(smoothed(shape, 1.0)).mean() > 2.5 * np.abs(shape).mean()


def test_smoothing_changes_the_dream(tmp_path: Path) -> None:
    images = []
    for smoothing in (0.0, 2.0):
        folder = tmp_path / str(smoothing)
        folder.mkdir()
        images.append(dreamt(ImageJobWork({}, folder), network(), smoothing=smoothing).image())
    roughness = [float(np.abs(np.diff(image.astype(float), axis=1)).mean()) for image in images]
    assert roughness[1] < roughness[0]


def test_impossible_targets_are_refused() -> None:
    with pytest.raises(LayerNotFound, match="conv"):
        network(layers={"cnv": 1.0})
    with pytest.raises(ValidationFailed, match="4 classes"):
        network(layers={}, class_index=4)

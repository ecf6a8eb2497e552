"""The fast method, with its published weights; skipped where they cannot be had."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contracts.create.requests import CONTENT_FILE, style_file
from contracts.settings import Settings
from models.create.style import fast
from models.create.style.fast import FastStyle
from models.create.style.job import run
from models.weights.catalog import Weights, WeightsMissing
from tests.models.create.image_work import ImageJobWork, photo, png


@pytest.fixture(scope="module")
def weights(fetched: Path) -> Weights:
    found = Weights(fetched / "weights", None, False)
    try:
        found.pull("style_fast")
    except WeightsMissing as missing:
        pytest.skip(str(missing))
    return found


@pytest.fixture(scope="module")
def networks(weights: Weights) -> FastStyle:
    return FastStyle(weights, 2)


def job(
    fetched: Path,
    folder: Path,
    styles: int = 1,
    weights_dir: Path | None = None,
    **request: Any,
) -> ImageJobWork:
    folder.mkdir(exist_ok=True)
    (folder / CONTENT_FILE).write_bytes(png(photo(150, 101)))
    for index in range(styles):
        (folder / style_file(index)).write_bytes(png(photo(80, 80, 5 + index)))
    work = ImageJobWork({"method": "fast", "styles": styles, **request}, folder)
    run(work, Settings(_env_file=None, home=fetched, weights_dir=weights_dir))
    return work


def test_job_keeps_the_size_of_the_content(
    fetched: Path, networks: FastStyle, tmp_path: Path
) -> None:
    work = job(fetched, tmp_path)
    assert work.image().shape == (101, 150, 3)
    assert work.settings()["method"] == "fast"
    assert np.abs(work.image().astype(float) - np.asarray(photo(150, 101))).mean() > 5


@pytest.mark.shared
@pytest.mark.usefixtures("networks")
def test_optimization_begins_with_the_fast_result(
    fetched: Path, shared: Path, tmp_path: Path
) -> None:
    """One evaluation is that of the start, which therefore is the result."""
    sent = {"size": 96, "method": "optimize", "network": "squeezenet", "iterations": 1}
    options = {"weights_dir": shared / "weights", **sent}
    painted = job(fetched, tmp_path / "fast", size=96).image()
    begun = job(fetched, tmp_path / "begun", init="fast", **options).image()
    content = job(fetched, tmp_path / "content", **options).image()
    np.testing.assert_array_equal(begun, painted)
    assert np.abs(content.astype(float) - painted).mean() > 5


def test_styles_are_blended_and_strength_leads_to_the_content(networks: FastStyle) -> None:
    first, second, content = photo(seed=5), photo(seed=6), photo()
    a, b, own = (networks.describe(image) for image in (first, second, content))
    np.testing.assert_allclose(
        networks.mixed([first, second], [0.25, 0.75], content), 0.25 * a + 0.75 * b, rtol=1e-4
    )
    np.testing.assert_allclose(networks.mixed([first], [1], content, 0.0), own, rtol=1e-4)
    assert a.shape == (100,)


def test_tiles_are_like_the_whole_without_seams(
    networks: FastStyle, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = np.asarray(photo(300, 220), np.float32)
    numbers = networks.describe(photo(seed=5))
    whole = networks.paint(content, numbers).astype(float)
    monkeypatch.setattr(fast, "TILE_SIDE", 200)
    monkeypatch.setattr(fast, "_OVERLAP", 60)
    tiled = networks.paint(content, numbers).astype(float)
    assert tiled.shape == whole.shape
    assert np.corrcoef(tiled.ravel(), whole.ravel())[0, 1] > 0.8
    across = np.abs(np.diff(tiled, axis=1)).mean((0, 2))
    assert across.max() < 4 * np.median(across)

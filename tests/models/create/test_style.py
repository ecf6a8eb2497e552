"""A whole transfer with a small network: progress, previews, cancel, and resume."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contracts.create.requests import StyleTransferRequest
from contracts.work import WorkStoppedError
from models.create.run import ImageRun
from models.create.style.objective import LossWeights
from models.create.style.plan import plan
from models.create.style.transfer import StyleTransfer
from tests.models import keras_warnings
from tests.models.create.image_work import ImageJobWork, photo
from tests.models.create.networks import small_objective

pytestmark = keras_warnings.ignored

ITERATIONS = 60
SIZE = (180, 120)


def transfer(work: ImageJobWork, **options: Any) -> ImageJobWork:
    """Run a transfer to its end or to the check at which the work stops."""
    request = StyleTransferRequest(iterations=ITERATIONS, **options)
    levels = plan(SIZE, ITERATIONS, pyramid=request.pyramid, minimum_side=8)
    objective = small_objective(LossWeights(1.0, 0.1, 0.1, request.gram))
    styles = [photo(90, 90, seed) for seed in (2, 3)[: len(request.style_weights or [1])]]
    run = ImageRun(
        work,
        steps=ITERATIONS,
        settings=request.model_dump(mode="json"),
        preview_every=request.preview_every,
        max_seconds=request.max_seconds,
    )
    made = StyleTransfer(objective, request, content=photo(*SIZE), styles=styles, levels=levels)
    run.finish(made.run(run)[0])
    return work


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_job_that_was_stopped_ends_with_the_same_image(tmp_path: Path, optimizer: str) -> None:
    folders = [tmp_path / name for name in ("whole", "stopped")]
    for folder in folders:
        folder.mkdir()
    whole = transfer(ImageJobWork({}, folders[0]), optimizer=optimizer)
    stops = 0
    for stop_at in (40, 9, 30):  # in a block, at once after a resume, at the full size
        try:
            transfer(ImageJobWork({}, folders[1], stop_at=stop_at), optimizer=optimizer)
        except WorkStoppedError:
            stops += 1
    resumed = transfer(ImageJobWork({}, folders[1]), optimizer=optimizer)
    assert stops >= 2
    assert resumed.checks < whole.checks
    np.testing.assert_array_equal(resumed.image(), whole.image())


def test_losses_fall_and_each_step_is_reported(tmp_path: Path) -> None:
    work = transfer(ImageJobWork({}, tmp_path), preview_every=7)
    fractions = [progress.fraction for progress in work.seen]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    assert [progress.step for progress in work.seen] == list(range(1, ITERATIONS + 1))
    assert len(work.rows) == ITERATIONS
    rows = [row for (_, phase), row in work.rows.items() if phase == "180 px"]
    assert min(row["loss"] for row in rows) < rows[0]["loss"]
    assert rows[0].keys() >= {"step", "loss", "content", "style", "tv"}
    assert work.previews == ITERATIONS // 7 + 1
    assert work.image().shape == (SIZE[1], SIZE[0], 3)
    np.testing.assert_array_equal(work.image("preview.png"), work.image())


def test_cancelled_job_keeps_its_latest_image(tmp_path: Path) -> None:
    work = ImageJobWork({}, tmp_path, stop_at=6)
    with pytest.raises(WorkStoppedError):
        transfer(work, preview_every=1000)
    assert list(work.files) == ["preview.png"]
    assert not np.array_equal(work.image("preview.png"), photo(128, 85))


def test_time_that_is_over_ends_with_what_there_is(tmp_path: Path) -> None:
    work = transfer(ImageJobWork({}, tmp_path), max_seconds=1e-6)
    assert work.image().shape == (SIZE[1], SIZE[0], 3)
    assert len(work.seen) < ITERATIONS


@pytest.mark.parametrize(
    "options",
    [
        {"init": "noise", "seed": 3},
        {"init": "style"},
        pytest.param({"pyramid": False}, marks=pytest.mark.slow),
        pytest.param({"preserve_colors": "histogram"}, marks=pytest.mark.slow),
        pytest.param({"gram": "tutorial"}, marks=pytest.mark.slow),
        {"style_weights": [0.5, 0.5], "style_scale": 0.5},
    ],
)
def test_options_change_the_result_and_stand_in_the_file(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    plain = transfer(ImageJobWork({}, tmp_path / "a"))
    other = transfer(ImageJobWork({}, tmp_path / "b"), **options)
    assert not np.array_equal(plain.image(), other.image())
    assert other.settings().items() >= options.items()


def test_preserved_luminance_changes_no_color(tmp_path: Path) -> None:
    made = transfer(ImageJobWork({}, tmp_path), preserve_colors="luminance").image().astype(float)
    content = np.asarray(photo(*SIZE), float)
    inside = ((made > 2) & (made < 253)).all(-1)
    difference = np.abs(np.diff(made, axis=-1) - np.diff(content, axis=-1))[inside]
    assert difference.max() <= 2
    assert np.abs(made - content).mean() > 1

import re
from pathlib import Path

import pytest

from benchmarks.create.memory import estimate, peak_bytes
from contracts.errors import ValidationFailed
from contracts.settings import Settings
from models.create.images import scaled_size
from models.create.memory import (
    check_style_memory,
    check_tiled_memory,
    style_bytes,
    tiled_bytes,
)

GB = 10**9


def test_default_fits_into_a_small_machine() -> None:
    check_style_memory((512, 512), "vgg16", 3 * GB, 1.0)


def test_4k_is_refused_with_the_size_that_fits() -> None:
    with pytest.raises(ValidationFailed, match="method=fast") as refused:
        check_style_memory((3840, 2160), "vgg16", 8 * GB, 1.0)
    side = int(re.search(r"size=(\d+)", refused.value.detail)[1])  # type: ignore[index]
    assert 512 < side < 3840
    check_style_memory(scaled_size((3840, 2160), side), "vgg16", 8 * GB, 1.0)
    assert style_bytes(scaled_size((3840, 2160), side + 32), "vgg16") > 8 * GB


@pytest.mark.parametrize("style", [(32, 32), (4000, 3000)])
def test_a_style_beside_a_narrow_content_counts_at_its_own_proportions(
    style: tuple[int, int],
) -> None:
    """8192 x 32 pixels of content take 3 GB, and a square style of as many columns 34 or more."""
    content = (8192, 32)
    check_style_memory(content, "vgg16", 8 * GB, 1.0)
    for network in ("vgg16", "vgg19", "squeezenet"):
        with pytest.raises(ValidationFailed, match=r"with these styles.*size=\d+") as refused:
            check_style_memory(content, network, 8 * GB, 1.0, [(64, 2), style])
        side = int(re.search(r"size=(\d+)", refused.value.detail)[1])  # type: ignore[index]
        check_style_memory(scaled_size(content, side), network, 8 * GB, 1.0, [style])


def test_a_usual_style_changes_nothing() -> None:
    size = (512, 384)
    assert style_bytes(size, "vgg16", [(300, 300), (300, 400)]) == style_bytes(size, "vgg16")


def test_what_works_in_tiles_takes_4k() -> None:
    check_tiled_memory((3840, 2160), 2 * GB)
    check_tiled_memory((3840, 2160), 5 * GB, 512)
    with pytest.raises(ValidationFailed, match="size="):
        check_tiled_memory((8192, 8192), 5 * GB)


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize(
    ("kind", "side", "options"),
    [
        ("style", 512, {"network": "squeezenet"}),
        ("style", 384, {"network": "vgg16"}),
        ("dream", 1024, {}),
    ],
)
def test_estimate_is_near_what_a_job_takes(
    shared: Path, monkeypatch: pytest.MonkeyPatch, kind: str, side: int, options: dict[str, str]
) -> None:
    """Never less than a process of its own takes, and not much more."""
    monkeypatch.setenv("OPSIN_WEIGHTS_DIR", str(shared / "weights"))
    measured = peak_bytes(kind, side, options)
    estimated = estimate(kind, side, Settings(_env_file=None), options)
    assert measured <= estimated <= 2.5 * measured


def test_a_dream_counts_with_its_tiles() -> None:
    """VGG16 took 1.09 GB at 1024 pixels in float32, and 1.22 GB in tiles of 512."""
    assert 1.09e9 < tiled_bytes((1024, 1024), 384) < 2 * 1.09e9
    assert 1.22e9 < tiled_bytes((1024, 1024), 512) < 2 * 1.22e9


def test_the_fast_method_counts_without_a_network_of_tensorflow() -> None:
    """It took 0.33 GB at 800 x 600 pixels and 0.80 GB at 3000 x 2000; a large file takes 0.8."""
    assert 0.83e9 < tiled_bytes((800, 600)) < 1.1e9
    assert 0.83e9 < tiled_bytes((3000, 2000)) < 1.8e9


def test_tiles_of_a_network_that_takes_one_size_count_at_that_size() -> None:
    assert tiled_bytes((640, 480), 64, 1024**2) > 4.15e9
    with pytest.raises(ValidationFailed, match="more memory"):
        check_tiled_memory((640, 480), 4 * 1024**3, 64, 1024**2)
    assert tiled_bytes((1024, 1024), 512, 64**2) == tiled_bytes((1024, 1024), 512)


def test_large_tiles_count_at_their_size() -> None:
    """VGG16 took 4.15 GB in tiles of 1024 pixels, and the estimate was 2.6."""
    assert tiled_bytes((1024, 1024), 1024) > 4.15e9
    assert tiled_bytes((1024, 1024), 384) == tiled_bytes((1024, 1024), 64)
    assert tiled_bytes((1024, 32), 1024) == tiled_bytes((1024, 32), 64)
    with pytest.raises(ValidationFailed, match="tile_size=") as refused:
        check_tiled_memory((1024, 1024), 4 * 1024**3, 1024)
    side = int(refused.value.detail.rpartition("tile_size=")[2].partition(" ")[0])
    check_tiled_memory((1024, 1024), 4 * 1024**3, side)

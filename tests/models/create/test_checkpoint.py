"""A checkpoint that a disk has damaged counts as none."""

from pathlib import Path

import numpy as np
import pytest

from models.create.run import ImageRun
from tests.models.create.image_work import ImageJobWork


@pytest.mark.parametrize("damage", ["cut", "flipped", "head", "empty", "zeros"])
def test_a_damaged_checkpoint_is_none(tmp_path: Path, damage: str) -> None:
    run = ImageRun(ImageJobWork({}, tmp_path), steps=1, settings={})
    run.save({"image": np.zeros((50, 50, 3), np.float32)})
    (path,) = tmp_path.iterdir()
    raw = path.read_bytes()
    assert run.load() is not None
    damaged = {
        "cut": raw[:-100],
        "flipped": raw[:5000] + bytes([raw[5000] ^ 1]) + raw[5001:],
        "head": raw[:4],
        "empty": b"",
        "zeros": bytes(len(raw)),
    }
    path.write_bytes(damaged[damage])
    assert run.load() is None


def test_a_disk_that_is_nearly_full_gets_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.create.run._KEPT_BYTES", 10**18)
    run = ImageRun(ImageJobWork({}, tmp_path), steps=1, settings={})
    run.save({"image": np.zeros((5, 5, 3), np.float32)})
    assert list(tmp_path.iterdir()) == []
    assert run.load() is None

from pathlib import Path

import numpy as np
import pytest

from models.training.loop.checkpoint import Checkpoint, CheckpointFile
from models.training.loop.state import TrainingState


def checkpoint(value: float = 1.5) -> Checkpoint:
    state = TrainingState(phase="head", learning_rate=0.1, history=[{"epoch": 1, "loss": 1 / 3}])
    return Checkpoint(
        state,
        learned={"head_fc1/0": np.full((2, 3), value, np.float32)},
        optimizer={"0": np.array(7, np.int64)},
        best={"head_fc1/0": np.zeros((2, 3), np.float32), "a/1": np.array([1, 2], np.uint32)},
    )


def test_checkpoint_is_read_back(tmp_path: Path) -> None:
    file = CheckpointFile(tmp_path / "job" / "checkpoint.npz", "this")
    assert file.read() is None
    file.write(checkpoint())
    file.write(checkpoint(2.5))
    read = file.read()
    assert read
    assert read.state == checkpoint().state
    for part in ("learned", "optimizer", "best"):
        actual, expected = getattr(read, part), getattr(checkpoint(2.5), part)
        assert actual.keys() == expected.keys()
        for name, array in expected.items():
            assert actual[name].dtype == array.dtype
            np.testing.assert_array_equal(actual[name], array)
    assert [path.name for path in (tmp_path / "job").iterdir()] == ["checkpoint.npz"]


def test_checkpoint_of_another_training_is_ignored(tmp_path: Path) -> None:
    CheckpointFile(tmp_path / "c.npz", "this").write(checkpoint())
    assert CheckpointFile(tmp_path / "c.npz", "that").read() is None


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_truncated_checkpoint_is_ignored(tmp_path: Path, share: float) -> None:
    file = CheckpointFile(tmp_path / "c.npz", "this")
    file.write(checkpoint())
    raw = (tmp_path / "c.npz").read_bytes()
    (tmp_path / "c.npz").write_bytes(raw[: int(len(raw) * share)])
    assert file.read() is None


def test_pickled_objects_are_refused(tmp_path: Path) -> None:
    hostile = np.array([{"a": 1}], dtype=object)
    with (tmp_path / "c.npz").open("wb") as file:
        np.savez(file, training=hostile, state=hostile)
    assert CheckpointFile(tmp_path / "c.npz", "this").read() is None

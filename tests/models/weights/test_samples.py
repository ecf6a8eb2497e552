import zipfile
from hashlib import sha256
from pathlib import Path

import pytest
from PIL import Image

from models.weights.samples import Samples, SamplesMissingError
from models.weights.sources import PackageFile


def rows(*names: str) -> tuple[PackageFile, ...]:
    return tuple(
        PackageFile(
            kind="wheel",
            file=name,
            digest=f"sha256:{sha256(name.encode()).hexdigest()}",
            package="opsin-test-photos",
            version="1.0",
            member=f"photos/{name}",
        )
        for name in names
    )


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pip that knows one wheel of two small files, each holding its own name."""
    folder = tmp_path / "registry"
    folder.mkdir()
    info = "opsin_test_photos-1.0.dist-info"
    with zipfile.ZipFile(folder / "opsin_test_photos-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("photos/a.png", "a.png")
        wheel.writestr("photos/b.png", "b.png")
        wheel.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: opsin-test-photos\nVersion: 1.0\n"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


def test_all_samples_come_in_one_download(registry: Path, tmp_path: Path) -> None:
    samples = Samples(tmp_path / "samples", False, files=rows("a.png", "b.png"))
    paths = samples.pull()
    assert [path.read_text() for path in paths] == ["a.png", "b.png"]
    for wheel in registry.iterdir():
        wheel.unlink()
    assert samples.pull() == samples.find() == paths


def test_missing_samples_are_named(registry: Path, tmp_path: Path) -> None:
    samples = Samples(tmp_path / "samples", False, files=rows("a.png", "c.png"))
    with pytest.raises(SamplesMissingError, match=r"contains no photos/c\.png"):
        samples.pull()
    with pytest.raises(SamplesMissingError, match=r"photos c\.png are not"):
        samples.find()


def test_offline_fetches_nothing(registry: Path, tmp_path: Path) -> None:
    with pytest.raises(SamplesMissingError, match="OPSIN_OFFLINE"):
        Samples(tmp_path / "samples", True, files=rows("a.png")).pull()
    assert not (tmp_path / "samples").exists()


def test_published_samples_are_images(photos: Path) -> None:
    sizes = {}
    for path in Samples(photos, True).find():
        with Image.open(path) as image:
            sizes[path.name] = image.size
    assert sizes == {"cat.png": (451, 300), "coffee.png": (600, 400), "astronaut.png": (512, 512)}

"""Names that cost more than names do, and how few of them are looked at before they are refused."""

import struct
import tarfile
import tracemalloc
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from contracts.errors import InvalidArchive, PayloadTooLarge
from models.datasets import layout, report
from models.datasets.archives import name_encoding, tar
from models.datasets.archives.limits import Limits
from models.datasets.archives.name_encoding import Decoded, NameReader, decode_names
from models.datasets.store import DatasetStore
from tests.models.datasets.packing import photo, tree, zipped

FOREIGN = "\xc9\xe1"  # no UTF-8, and of many encodings


@pytest.fixture
def store(tmp_path: Path) -> DatasetStore:
    return DatasetStore(tmp_path / "datasets", Limits(free_bytes=0))


def tarred_names(path: Path, *names: str) -> Path:
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name))
    return path


def zipped_name(path: Path, name: bytes) -> Path:
    raw = zipped({"c/" + "n" * (len(name) - 2): photo(1)})
    path.write_bytes(raw.replace(b"c/" + b"n" * (len(name) - 2), name))
    return path


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_long_name_is_refused_before_its_encoding_is_guessed(
    tmp_path: Path, store: DatasetStore, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """To guess takes a microsecond for each character and encoding: 100 MB of names, half an hour.

    They are a hundred kilobytes of gzip.
    """

    def guessed(*_: object) -> Decoded:
        raise AssertionError("looked at")

    monkeypatch.setattr(name_encoding, "decode_names", guessed)
    path, name = tmp_path / "x", FOREIGN * 2500
    made = zipped_name(path, name.encode("latin-1")) if kind == "zip" else tarred_names(path, name)
    with pytest.raises(InvalidArchive, match="more than 1024 bytes"):
        store.create("x", made)


def test_long_names_behind_a_short_one_are_not_collected(
    tmp_path: Path, store: DatasetStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All names of a tar are read to guess how one is encoded; they were up to 64 kB each."""
    path = tarred_names(tmp_path / "x", FOREIGN, *(f"{n}{FOREIGN * 200}" for n in range(20)))
    assert store.create("x", path).files
    with pytest.raises(InvalidArchive, match="1024 bytes"):
        store.create("x", tarred_names(path, FOREIGN, FOREIGN * 2500))
    monkeypatch.setattr(tar, "_MAX_NAMES_BYTES", 7_500)
    tarred_names(path, FOREIGN, *(f"{n}{FOREIGN * 200}" for n in range(20)))
    with pytest.raises(InvalidArchive, match="too long together"):
        store.create("x", path)


def test_a_sample_of_long_names_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []

    def plausibility(names: Sequence[bytes], _encoding: str) -> float:
        looked.append(sum(map(len, names)))
        return 0.0

    monkeypatch.setattr(name_encoding, "_plausibility", plausibility)
    decode_names([(f"{number}{FOREIGN * 500}").encode("latin-1") for number in range(2000)], None)
    assert looked
    assert max(looked) < 110_000


def test_examples_are_found_among_millions_of_names(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {b"%d" % n: "/".join(f"ж{n}-{part}" for part in range(100)) for n in range(2000)}
    monkeypatch.setattr(name_encoding, "decode_names", lambda *_: Decoded(names, "cp1251"))
    reader = NameReader()
    tracemalloc.start()
    try:
        reader.read(list(names))
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
    (note,) = reader.notes()
    assert "ж0-0, ж0-1, ж0-10, ж0-11, ж0-12" in note.detail


def test_a_label_that_is_far_too_long_is_not_composed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table has a million rows; to order two thousand accents takes milliseconds for each."""
    assert layout.checked_label("e\u0301" * 120) == "é" * 120
    monkeypatch.setattr(layout, "composed", lambda _name: pytest.fail("composed"))
    assert layout.checked_label("a" + "\u0316\u0301" * 1000) is None


def test_an_extra_field_of_thousands_of_parts_is_refused(
    tmp_path: Path, store: DatasetStore
) -> None:
    """`zipfile` copies what is left of it for each of its parts."""
    path = tmp_path / "x.zip"
    for size, is_refused in ((4000, False), (5000, True)):
        with zipfile.ZipFile(path, "w") as archive:
            entry = zipfile.ZipInfo("cat/1.png")
            entry.extra = struct.pack("<HH", 0x9999, 0) * (size // 4)
            archive.writestr(entry, photo(1))
        if is_refused:
            with pytest.raises(InvalidArchive, match="too long"):
                store.create("x", path)
        else:
            assert store.create("x", path).files


def test_the_names_of_all_classes_have_a_few_megabytes(
    store: DatasetStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are read and sent at once wherever a dataset is listed; 200,000 would have 100 MB."""
    path = tmp_path / "x.zip"
    path.write_bytes(zipped(tree({"cat" * 10: 2, "dog" * 10: 2})))
    monkeypatch.setattr(report, "_MAX_NAMES_BYTES", 60)
    assert store.create("x", path).files
    monkeypatch.setattr(report, "_MAX_NAMES_BYTES", 59)
    with pytest.raises(PayloadTooLarge, match="names of its classes"):
        store.create("x", path)
    assert len(store.ids()) == 1

"""File names in the encodings that programs store without saying so."""

import encodings
import io
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from contracts.errors import InvalidArchive, ValidationFailed
from contracts.training.datasets import Listing
from models.datasets.archives.limits import Limits
from models.datasets.archives.name_encoding import Naming, checked_encoding, decode_names
from models.datasets.store import DatasetStore
from tests.models.datasets.packing import photo, tarred, tree, written, zipped


@pytest.fixture
def store(tmp_path: Path) -> DatasetStore:
    return DatasetStore(tmp_path / "datasets", Limits(free_bytes=0))


def raw_zip(names: dict[bytes, bytes], *, flags: int = 0, extra: dict[bytes, bytes]) -> bytes:
    """A zip of names as bytes, which `zipfile` cannot write."""
    placeholders = {f"@{number}@".ljust(len(name), "x"): name for number, name in enumerate(names)}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for placeholder, name in placeholders.items():
            entry = zipfile.ZipInfo(placeholder)
            entry.extra = extra.get(name, b"")
            archive.writestr(entry, names[name])
    packed = buffer.getvalue()
    for placeholder, name in placeholders.items():
        packed = packed.replace(placeholder.encode(), name)
    if flags:
        for magic, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            parts = packed.split(magic)
            packed = magic.join(
                part
                if not at
                else part[: offset - 4] + struct.pack("<H", flags) + part[offset - 2 :]
                for at, part in enumerate(parts)
            )
    return packed


def images(labels: list[str], encoding: str, suffix: str = "0000000.png") -> dict[bytes, bytes]:
    """Four images of each class; the names are long enough to be unique placeholders."""
    return {
        label.encode(encoding) + f"/{place}{number}{suffix}".encode(): photo(10 * place + number)
        for place, label in enumerate(labels)
        for number in range(4)
    }


def made(
    store: DatasetStore, tmp_path: Path, data: bytes, name_encoding: str | None = None
) -> Listing:
    path = tmp_path / "upload"
    path.write_bytes(data)
    return store.create("x", path, naming=Naming(name_encoding))


def codes(listing: Listing) -> set[str]:
    return {warning.code for warning in listing.info.warnings}


GUESSED = [
    ("gbk", ["猫", "狗"]),
    ("gbk", ["苹果", "香蕉", "橘子"]),
    ("cp932", ["ねこ", "いぬ"]),
    ("cp932", ["表", "能"]),  # the second byte of both is a backslash
    ("cp932", ["ネコ", "イヌ"]),
    ("big5", ["貓", "狗"]),
    ("cp949", ["고양이", "개"]),
    ("cp850", ["Bär", "Kühe"]),
    ("cp437", ["Größe", "Straße"]),
    ("cp1252", ["café", "thé"]),
    ("cp850", ["São Paulo", "maçã"]),
    ("cp866", ["кошка", "собака"]),
    ("cp1251", ["кошка", "собака"]),
    ("cp737", ["γάτα", "σκύλος"]),
    ("cp1255", ["חתול", "כלב"]),
    ("cp1256", ["قطة", "كلب"]),
]


@pytest.mark.parametrize(("encoding", "labels"), GUESSED)
def test_names_of_a_code_page_are_guessed_and_the_guess_is_told(
    store: DatasetStore, tmp_path: Path, encoding: str, labels: list[str]
) -> None:
    listing = made(store, tmp_path, raw_zip(images(labels, encoding), extra={}))
    assert set(listing.info.classes) == set(labels)
    (note,) = [one for one in listing.info.warnings if one.code == "guessed_names"]
    assert "name_encoding" in note.detail
    assert min(labels) in note.detail


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize(
    "labels",
    [
        ["Größe", "Straße"],
        ["猫", "犬"],
        ["кот", "пёс"],
        ["🐱", "🐶"],
        ["café", "thé"],
        ["naïve", "señor"],
    ],
)
def test_utf_8_needs_no_flag_and_no_guess(
    store: DatasetStore, tmp_path: Path, labels: list[str], form: Literal["NFC", "NFD"]
) -> None:
    stored = [unicodedata.normalize(form, label) for label in labels]
    for flags in (0, 0x800):
        listing = made(store, tmp_path, raw_zip(images(stored, "utf-8"), flags=flags, extra={}))
        assert set(listing.info.classes) == {unicodedata.normalize("NFC", one) for one in labels}
        assert "guessed_names" not in codes(listing)


def test_the_client_names_the_encoding(store: DatasetStore, tmp_path: Path) -> None:
    packed = raw_zip(images(["kočka", "pes"], "cp1250"), extra={})
    assert "kočka" not in made(store, tmp_path, packed).info.classes, "which is why it can"
    listing = made(store, tmp_path, packed, "cp1250")
    assert set(listing.info.classes) == {"kočka", "pes"}
    assert "guessed_names" not in codes(listing)
    with pytest.raises(InvalidArchive, match="not in the encoding shift_jis"):
        made(store, tmp_path, raw_zip(images(["a\xff"], "latin-1"), extra={}), "shift_jis")
    for sent, found in (("Shift-JIS", "shift_jis"), (" Latin1", "iso8859-1"), ("KOI8-R", "koi8-r")):
        assert checked_encoding(sent) == found
    remembered = len(encodings._cache)  # type: ignore[attr-defined]
    for unknown in ("rot13", "idna", "nonesuch", "", "unicode_escape"):
        with pytest.raises(ValidationFailed, match="name_encoding"):
            checked_encoding(unknown)
    assert len(encodings._cache) == remembered  # type: ignore[attr-defined]


def test_the_unicode_path_counts_while_it_belongs_to_the_name(
    store: DatasetStore, tmp_path: Path
) -> None:
    names = images(["猫", "狗"], "gbk")

    def field(name: bytes, crc: int) -> bytes:
        text = name.decode("gbk").encode()
        return struct.pack("<HHBL", 0x7075, 5 + len(text), 1, crc) + text

    right = {name: field(name, zlib.crc32(name)) for name in names}
    listing = made(store, tmp_path, raw_zip(names, extra=right))
    assert set(listing.info.classes) == {"猫", "狗"}
    assert "guessed_names" not in codes(listing)
    stale = {name: field(name, 1) for name in names}
    assert "guessed_names" in codes(made(store, tmp_path, raw_zip(names, extra=stale)))
    escaped = {b"#U732b/%d000000.png" % number: photo(number) for number in range(4)}
    real = {
        name: struct.pack("<HHBL", 0x7075, 5 + len(text), 1, zlib.crc32(name)) + text
        for name in escaped
        if (text := name.replace(b"#U732b", "猫".encode()))
    }
    assert set(made(store, tmp_path, raw_zip(escaped, extra=real)).info.classes) == {"猫"}


def test_names_of_a_tar_and_a_folder_are_guessed_too(store: DatasetStore, tmp_path: Path) -> None:
    names = images(["猫", "狗"], "gbk")
    buffer = io.BytesIO()
    with tarfile.open(
        fileobj=buffer, mode="w:gz", format=tarfile.GNU_FORMAT, encoding="gbk"
    ) as archive:
        for name, data in ({b"plain/0.png": photo(99)} | names).items():
            header = tarfile.TarInfo(name.decode("gbk"))
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
    listing = made(store, tmp_path, buffer.getvalue())
    assert set(listing.info.classes) == {"plain", "猫", "狗"}
    assert "guessed_names" in codes(listing)
    folder = tmp_path / "folder"
    for name, data in names.items():
        path = Path(os_fsdecode(bytes(folder) + b"/" + name))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    listing = store.create("x", folder)
    assert set(listing.info.classes) == {"猫", "狗"}
    assert "guessed_names" in codes(listing)


def os_fsdecode(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")


def test_backslashes_separate_folders(store: DatasetStore, tmp_path: Path) -> None:
    names = {name.replace("/", "\\"): data for name, data in tree({"cat": 5, "dog": 5}).items()}
    folders = {"pets\\": b"", "pets\\cat\\": b""}
    wanted = {"cat": 5, "dog": 5}
    for packed in (zipped(folders | {f"pets\\{n}": d for n, d in names.items()}), tarred(names)):
        listing = made(store, tmp_path, packed)
        assert (listing.info.classes, listing.info.rejected) == (wanted, [])


@pytest.mark.parametrize("prefix", [b"MZ" + b"\0" * 3000, b"#!/bin/sh\nexec unzip $0\n", b"\0"])
def test_a_zip_behind_a_program_is_read(store: DatasetStore, tmp_path: Path, prefix: bytes) -> None:
    for tail in (b"", b"\0" * 500):
        listing = made(store, tmp_path, prefix + zipped(tree({"cat": 3, "dog": 3})) + tail)
        assert listing.info.classes == {"cat": 3, "dog": 3}


def test_names_with_joiners_and_wide_spaces(store: DatasetStore, tmp_path: Path) -> None:
    labels = [
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        "👩\u200d🚀",
        "山田\u3000太郎",
        "thin\u2009space",
        "no\u00a0break",
    ]

    files = {f"{label}/1.png": photo(at) for at, label in enumerate(labels)}
    hidden = {"\u200b/1.png": photo(90), "a\u202eb/1.png": photo(91), "\u200d/1.png": photo(92)}
    listing = made(store, tmp_path, zipped(files | hidden))
    assert set(listing.info.classes) == set(labels)
    assert {one.code for one in listing.info.rejected} == {"no_label"}


def test_one_name_in_two_forms_is_one_class(store: DatasetStore, tmp_path: Path) -> None:
    files = {"caf\u00e9/1.png": photo(1), "cafe\u0301/2.png": photo(2), "Cat/1.png": photo(3)}
    listing = made(store, tmp_path, zipped(files | {"cat/2.png": photo(4)}))
    assert set(listing.info.classes) == {"café", "Cat", "cat"}
    assert "similar_names" in codes(listing)
    folder = written(tmp_path / "folder", files)
    assert set(store.create("x", folder).info.classes) == {"café", "Cat"}


def test_a_short_name_that_is_utf_8_by_chance() -> None:
    """The bytes of 猫 in GBK are those of è in UTF-8."""
    assert decode_names(["猫/1.jpg".encode("gbk")], None).guess == "gbk"
    assert decode_names(["é/1.jpg".encode(), "è/1.jpg".encode()], None).guess is None


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_a_name_with_a_colon_is_no_drive(
    store: DatasetStore, tmp_path: Path, pack: Callable[[dict[str, bytes]], bytes]
) -> None:
    files = {name: photo(number) for number, name in enumerate(("a:b/C:1.png", "c: d/2.png"))}
    assert made(store, tmp_path, pack(files)).info.classes == {"a:b": 1, "c: d": 1}

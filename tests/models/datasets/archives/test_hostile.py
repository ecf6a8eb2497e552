"""Hostile archives and folders: each is refused with its code and leaves nothing on the disk."""

import gzip
import io
import os
import socket
import stat
import tarfile
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from contracts.errors import InvalidArchive, OpsinError, Unavailable
from contracts.training.datasets import DatasetFile
from models.datasets import labels_file
from models.datasets.archives.limits import Limits
from models.datasets.labeling import resolve_copies
from models.datasets.labels_file import read_tables
from models.datasets.layout import Layout
from models.datasets.store import DatasetStore
from tests.models.datasets.packing import (
    chained_tar,
    endless_name_tar,
    gzip_bomb,
    lying_zip,
    odd_tar,
    odd_zip,
    on_disk,
    overlapping_zip,
    photo,
    sparse_tar,
    tarred,
    tree,
    written,
    zipped,
)

SMALL = Limits(
    archive_bytes=2_000_000,
    files=60,
    total_bytes=1_000_000,
    image_bytes=200_000,
    free_bytes=0,
    ratio=100,
    ratio_floor=300_000,
    depth=8,
)
LINK = (stat.S_IFLNK | 0o777) << 16
DEVICE = (stat.S_IFCHR | 0o666) << 16
FIFO = (stat.S_IFIFO | 0o666) << 16
GOOD = tree({"cat": 5, "dog": 5})


def two_named(first: str, second: str) -> bytes:
    return zipped({first: photo(1), second: photo(2)})


def encrypted() -> bytes:
    raw = bytearray(zipped(GOOD))
    for magic, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = raw.index(magic)
        raw[at + offset] |= 1
    return bytes(raw)


def bad_crc() -> bytes:
    raw = bytearray(zipped(GOOD, zipfile.ZIP_STORED))
    raw[raw.index(b"IDAT") + 8] ^= 0xFF
    return bytes(raw)


def other_local_name() -> bytes:
    raw = zipped(GOOD)
    return raw.replace(b"cat/0.png", b"../../etc", 1)


def many(count: int) -> dict[str, bytes]:
    return {f"cat/{number}.txt": b"" for number in range(count)}


def broken_header() -> bytes:
    raw = bytearray(tarred(GOOD))
    raw[1024 + 10] ^= 0x55
    return bytes(raw)


ZIPS: dict[str, Callable[[], bytes]] = {
    "zip: a path upwards": lambda: odd_zip("../../evil.png"),
    "zip: upwards in the middle": lambda: odd_zip("cat/../../evil.png"),
    "zip: an absolute path": lambda: odd_zip("/etc/passwd"),
    "zip: a drive": lambda: odd_zip("C:/windows/evil.png"),
    "zip: a drive, by backslashes": lambda: odd_zip("C:\\windows\\evil.png"),
    "zip: backslashes": lambda: odd_zip("cat\\..\\evil.png"),
    "zip: NUL in a name": lambda: odd_zip("cat/a.png").replace(b"cat/a.png", b"cat/a\0png"),
    "zip: a link": lambda: odd_zip("cat/a.png", b"/etc/passwd", external_attr=LINK),
    "zip: a device": lambda: odd_zip("cat/a.png", external_attr=DEVICE),
    "zip: a pipe": lambda: odd_zip("cat/a.png", external_attr=FIFO),
    "zip: endless name": lambda: odd_zip("cat/" + "a" * 5000 + ".png"),
    "zip: deep folders": lambda: odd_zip("a/" * 40 + "a.png"),
    "zip: encrypted": encrypted,
    "zip: too many files": lambda: zipped(many(61)),
    "zip: overlapping entries": overlapping_zip,
    "zip: too much in total": lambda: zipped(
        {f"cat/{n}.bin": os.urandom(190_000) for n in "abcdefg"}
    ),
    "zip: a bomb by ratio": lambda: zipped({f"cat/{n}.bin": b"\0" * 190_000 for n in "abcd"}),
    "zip: an entry that claims less": lambda: lying_zip(100),
    "zip: an entry that claims more": lambda: lying_zip(150_000),
    "zip: an entry that claims 4 GiB": lambda: lying_zip(0xFFFFFFFE),
    "zip: bzip2": lambda: zipped(GOOD, zipfile.ZIP_BZIP2),
    "zip: lzma": lambda: zipped(GOOD, zipfile.ZIP_LZMA),
    "zip: empty": lambda: zipped({}),
    "zip: cut in half": lambda: zipped(GOOD)[: len(zipped(GOOD)) // 2],
    "zip: cut at the end": lambda: zipped(GOOD)[:-10],
    "zip: a wrong checksum": bad_crc,
    "zip: another name in the local header": other_local_name,
    "zip: only a signature": lambda: b"PK\x03\x04",
    "zip: garbage after a signature": lambda: b"PK\x03\x04" + bytes(range(256)) * 20,
}
TARS: dict[str, Callable[[], bytes]] = {
    "tar: a path upwards": lambda: odd_tar("../../evil.png"),
    "tar: an absolute path": lambda: odd_tar("/etc/evil.png"),
    "tar: backslashes": lambda: odd_tar("cat\\..\\evil.png"),
    "zip: a network path": lambda: odd_zip("\\\\host\\share\\evil.png"),
    "tar: a part of several": lambda: odd_tar("cat/a.png", b"M"),
    "tar: a link": lambda: odd_tar("cat/a.png", tarfile.SYMTYPE, linkname="/etc/passwd"),
    "tar: a link within": lambda: odd_tar("cat/a.png", tarfile.SYMTYPE, linkname="0.png"),
    "tar: a hard link": lambda: odd_tar("cat/a.png", tarfile.LNKTYPE, linkname="cat/0.png"),
    "tar: a character device": lambda: odd_tar("cat/a.png", tarfile.CHRTYPE),
    "tar: a block device": lambda: odd_tar("cat/a.png", tarfile.BLKTYPE),
    "tar: a pipe": lambda: odd_tar("cat/a.png", tarfile.FIFOTYPE),
    "tar: a linked folder": lambda: odd_tar("cat", tarfile.SYMTYPE, linkname="/tmp"),
    "tar: a sparse terabyte": sparse_tar,
    "tar: an endless name": endless_name_tar,
    "tar: a chain of names": lambda: chained_tar(tarfile.GNUTYPE_LONGNAME),
    "tar: a chain of global headers": lambda: chained_tar(tarfile.XGLTYPE),
    "tar: empty gzip members": lambda: gzip.compress(b"") * 2000 + tarred(GOOD, packed=True),
    "tar: a deep folder": lambda: odd_tar("a/" * 40 + "a.png"),
    "tar: too many files": lambda: tarred(many(61)),
    "tar: too much in total": lambda: tarred({f"cat/{n}.b": b"\1" * 190_000 for n in "abcdefg"}),
    "tar: cut in an image": lambda: tarred(GOOD)[:700],
    "tar: cut between images": lambda: tarred(GOOD)[:2048],
    "tar: a broken header": broken_header,
    "tar: only a header's magic": lambda: b"\0" * 257 + b"ustar" + b"\0" * 250,
    "tar: a huge claimed size": lambda: tarred(GOOD)[:124] + b"7" * 11 + tarred(GOOD)[135:],
    "tar.gz: a bomb": gzip_bomb,
    "tar.gz: cut off": lambda: tarred(GOOD, packed=True)[:-40],
    "tar.gz: garbage inside": lambda: gzip.compress(b"no tar at all" * 200),
    "tar.gz: without an end mark, cut off": lambda: gzip.compress(tarred(GOOD)[:2048])[:-1],
    "tar.gz: damaged": lambda: tarred(GOOD, packed=True)[:60] + b"\xff" * 60,
    "tar.gz: an endless name in gzip": lambda: b"\x1f\x8b\x08\x08" + b"\0" * 6 + b"a" * 1_500_000,
    "tar.gz: gzip in gzip": lambda: gzip.compress(tarred(GOOD, packed=True)),
    "tar.gz: nothing": lambda: gzip.compress(b""),
    "empty file": lambda: b"",
    "text": lambda: b"I am a zip, trust me.\n" * 50,
    "an image": lambda: photo(1),
    "xz": lambda: b"\xfd7zXZ\0" + b"\0" * 100,
    "rar": lambda: b"Rar!\x1a\x07\x01\0" + b"\0" * 100,
    "7z": lambda: b"7z\xbc\xaf\x27\x1c" + b"\0" * 100,
    "too large an upload": lambda: zipped({"cat/a.bin": os.urandom(2_000_001)}),
}


@pytest.fixture
def store(tmp_path: Path) -> DatasetStore:
    store = DatasetStore(tmp_path / "datasets", SMALL)
    store.create("before", written(tmp_path / "before", GOOD))
    return store


@pytest.mark.parametrize("case", [*ZIPS, *TARS])
def test_hostile_archive_leaves_nothing(store: DatasetStore, tmp_path: Path, case: str) -> None:
    archive = tmp_path / "upload"
    archive.write_bytes((ZIPS | TARS)[case]())
    before = on_disk(tmp_path)
    tracemalloc.start()
    try:
        with pytest.raises(InvalidArchive) as refused:
            store.create("hostile", archive)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert on_disk(tmp_path) == before
    assert peak < 8_000_000, "memory is bounded"
    assert str(tmp_path) not in refused.value.detail
    assert refused.value.detail.endswith((".", ")."))
    assert len(store.ids()) == 1


def link_out(folder: Path) -> None:
    (folder / "secret").symlink_to("/etc")
    (folder / "cat" / "passwd.png").symlink_to("/etc/passwd")


def link_loop(folder: Path) -> None:
    (folder / "cat" / "again").symlink_to(folder)


def pipe(folder: Path) -> None:
    os.mkfifo(folder / "cat" / "pipe.png")


def sock(folder: Path) -> None:
    here = Path.cwd()
    os.chdir(folder / "cat")  # a socket's path is short
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind("s.png")
    finally:
        os.chdir(here)


def strange_bytes(folder: Path) -> None:
    Path(os.fsdecode(os.fsencode(folder / "cat") + b"/\xff\xfe.txt")).write_bytes(b"x")


@pytest.mark.parametrize(
    ("harm", "code"),
    [
        (link_out, "link"),
        (link_loop, "link"),
        (pipe, "special_file"),
        (sock, "special_file"),
        (strange_bytes, "not_an_image"),
    ],
)
@pytest.mark.timeout(20)
def test_hostile_folder_is_read_without_leaving_it(
    store: DatasetStore, tmp_path: Path, harm: Callable[[Path], None], code: str
) -> None:
    folder = written(tmp_path / "folder", GOOD)
    harm(folder)
    info = store.create("folder", folder).info
    assert {one.code for one in info.rejected} == {code}
    assert info.classes == {"cat": 5, "dog": 5}


def deep(folder: Path) -> Path:
    return written(folder, {"a/" * 12 + "a.png": photo(1)})


def crowded(folder: Path) -> Path:
    return written(folder, many(61))


def heavy(folder: Path) -> Path:
    return written(folder, {f"cat/{n}.bin": b"\1" * 190_000 for n in "abcdefg"})


def linked(folder: Path) -> Path:
    folder.symlink_to("/etc")
    return folder


@pytest.mark.parametrize(
    "make", [deep, crowded, heavy, linked, lambda f: f, lambda f: written(f, {})]
)
def test_folder_over_a_limit_is_refused(
    store: DatasetStore, tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    folder = make(tmp_path / "folder")
    before = on_disk(tmp_path)
    with pytest.raises(InvalidArchive):
        store.create("folder", folder)
    assert on_disk(tmp_path) == before


def test_full_disk_leaves_nothing(tmp_path: Path) -> None:
    store = DatasetStore(tmp_path / "datasets", Limits(free_bytes=1 << 60))
    folder = written(tmp_path / "folder", GOOD)
    before = on_disk(tmp_path)
    with pytest.raises(Unavailable, match="no room"):
        store.create("folder", folder)
    assert on_disk(tmp_path) - before <= {"datasets", "datasets/.staging"}


def test_empty_datasets_leave_the_disk_its_room(tmp_path: Path) -> None:
    """Each takes a thousand times the bytes that its request has."""
    (tmp_path / "datasets").mkdir()
    with pytest.raises(Unavailable, match="no room"):
        DatasetStore(tmp_path / "datasets", Limits(free_bytes=1 << 60)).create("empty", None)
    assert on_disk(tmp_path) == {"datasets"}


def test_thumbnails_leave_the_disk_its_room(tmp_path: Path) -> None:
    store = DatasetStore(tmp_path / "datasets", Limits(free_bytes=0))
    listing = store.create("pets", written(tmp_path / "folder", GOOD))
    full = DatasetStore(tmp_path / "datasets", Limits(free_bytes=1 << 60))
    dataset, sha256 = listing.info.id, next(file.sha256 for file in listing.files if file.sha256)
    before = on_disk(tmp_path)
    thumbnail = full.thumbnail(dataset, sha256)
    assert on_disk(tmp_path) == before
    assert store.thumbnail(dataset, sha256) == thumbnail
    assert on_disk(tmp_path) > before


def test_exception_of_the_progress_callback_leaves_nothing(
    store: DatasetStore, tmp_path: Path
) -> None:
    before = on_disk(tmp_path)

    def stop(done: int, path: str) -> None:
        if done == 4:
            raise OpsinError("enough")

    with pytest.raises(OpsinError, match="enough"):
        store.create("stopped", tmp_path / "before", progress=stop)
    assert on_disk(tmp_path) == before


def test_there_are_at_least_forty_cases() -> None:
    assert len(ZIPS) + len(TARS) >= 40


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("labels.csv", b"a,b\n"),
        ("labels.txt", b"a b\n"),
        ("columns.csv", b","),
        ("labels.json", b'{"a":1},'),
        ("lists.json", b"[],"),
    ],
)
def test_a_table_of_millions_of_rows_takes_little_memory(
    tmp_path: Path, name: str, unit: bytes
) -> None:
    body = unit * (3_000_000 // len(unit))
    if name.endswith("json"):
        body = b"[" + body[:-1] + b"]"
    tracemalloc.start()
    try:
        read_tables([(name, body)], ["cat/1.png"])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 40 * len(body)


def test_a_table_of_labels_may_not_have_millions_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels_file, "_MAX_ROWS", 2000)
    assert len(read_tables([("t.csv", b"file,label\n" + b"1.png,a\n" * 2000)], ["1.png"]).labels)
    with pytest.raises(InvalidArchive, match="2,000 rows"):
        read_tables([("t.csv", b"file,label\n" + b"1.png,a\n" * 2001)], ["1.png"])


def test_names_that_many_images_share_are_not_compared_without_end() -> None:
    images = ["cat.png", *(f"{number}/{'x/' * 10}1.png" for number in range(1000))]
    rows = b"".join(b"%d/1.png,a\n" % number for number in range(10_000))
    with pytest.raises(InvalidArchive, match="whole paths"):
        read_tables([("train.csv", b"file,label\ncat.png,a\n" + rows)], images)


def test_a_deadline_ends_the_reading_of_tables() -> None:
    def check() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        read_tables([("t.csv", b"file,label\n1.png,a\n")], ["1.png"], check=check)


@pytest.mark.parametrize("value", [b"1" * 20_000 + b"x", b"." * 20_000, b"1." * 10_000 + b"x"])
def test_what_looks_like_a_long_number_is_read_in_one_pass(value: bytes) -> None:
    """A regular expression is not interrupted, and no other thread runs meanwhile."""
    began = time.process_time()
    read_tables([("t.csv", b"file,q,r\n1.png," + value + b",7\n")], ["1.png"])
    assert time.process_time() - began < 2


@pytest.mark.parametrize("value", ["7", "-7", "+0.5", ".5", "1e-9", "2.5E+3"])
def test_a_column_of_numbers_is_no_label(value: str) -> None:
    table = f"file,q,r\n1.png,cat,{value}\n".encode()
    assert read_tables([("t.csv", table)], ["1.png"]).labels["1.png"].label == "cat"


def extended(records: bytes, kind: bytes = tarfile.XHDTYPE) -> bytes:
    """An extension header of a tar."""
    header = tarfile.TarInfo("x")
    header.size, header.type = len(records), kind
    return header.tobuf(tarfile.USTAR_FORMAT) + records + bytes(-len(records) % 512)


def record(keyword: bytes, value: bytes) -> bytes:
    content = b" " + keyword + b"=" + value + b"\n"
    length = len(content) + 1
    while len(str(length)) + len(content) != length:
        length += 1
    return str(length).encode() + content


@pytest.mark.parametrize(
    "header",
    [
        extended(b"2 " * 16_000 + b"="),
        extended(b"2 " * 4000 + b"=") * 8,
        extended(b"2 " * 16_000 + b"=", tarfile.XGLTYPE),
        extended(b"1" * 60_000),
        extended(record(b"comment", b"1" * 60_000)),
        extended(record(b"a", b"") * 5000),
        extended(record(b"k" * 5000, b"")),
        extended(b"99999 path=x\n"),
        extended(b"0 path=x\n"),
        extended(record(b"GNU.sparse.major", b"1") + record(b"GNU.sparse.minor", b"0")),
    ],
)
def test_an_extended_header_is_checked_before_it_is_parsed(
    tmp_path: Path, store: DatasetStore, header: bytes
) -> None:
    """Python's parser takes gigabytes or minutes for them (CVE-2024-6232)."""
    data = photo(1)
    member = tarfile.TarInfo("cat/1.png")
    member.size = len(data)
    tar = header + member.tobuf() + data + bytes(-len(data) % 512 + 1024)
    path = tmp_path / "x.tar.gz"
    path.write_bytes(gzip.compress(tar))
    tracemalloc.start()
    try:
        began = time.process_time()
        with pytest.raises(InvalidArchive):
            store.create("x", path)
        assert time.process_time() - began < 2
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


def test_usual_extended_headers_are_read(tmp_path: Path, store: DatasetStore) -> None:
    data = photo(1)
    member = tarfile.TarInfo("cat/1.png")
    member.size = len(data)
    names = record(b"path", "Käfer/größer.png".encode()) + record(b"mtime", b"1700000000.123456789")
    attributes = record(b"SCHILY.xattr.com.apple.quarantine", bytes(range(256)) * 20)
    tar = extended(record(b"comment", b"abc"), tarfile.XGLTYPE) + extended(names + attributes)
    tar += member.tobuf() + data + bytes(-len(data) % 512 + 1024)
    path = tmp_path / "x.tar.gz"
    path.write_bytes(gzip.compress(tar))
    listing = store.create("x", path)
    assert [(file.path, file.label) for file in listing.files] == [("Käfer/größer.png", "Käfer")]


@pytest.mark.parametrize("shape", ["train{}/cat/1.png", "c{}/train/1.png", "c{}/1.png"])
def test_the_folders_of_many_classes_are_understood_in_one_pass(shape: str) -> None:
    paths = [shape.format(number) for number in range(20_000)]
    began = time.process_time()
    layout = Layout.of(paths)
    assert all(layout.find(path) for path in paths)
    assert time.process_time() - began < 4


def test_copies_in_many_classes_do_not_each_name_all_of_them() -> None:
    """A zip of some megabytes would become a listing of as many gigabytes."""
    copies = [
        DatasetFile(id=f"f{number}", path="1.png", status="admitted", label=f"c{number:04}", size=1)
        for number in range(1000)
    ]
    details = [file.detail or "" for file in resolve_copies(copies)]
    assert set(details) == {
        "The same image is labeled 'c0000' and 'c0001' and 'c0002' and 997 more."
    }
    (detail, _) = (file.detail for file in resolve_copies(copies[:2]))
    assert detail == "The same image is labeled 'c0000' and 'c0001'."


def test_large_images_of_few_bytes_are_bounded_together(tmp_path: Path) -> None:
    """Two kilobytes can be fifty megapixels, damaged ones too, and 200,000 of them take days."""

    def large(color: int) -> bytes:
        buffer = io.BytesIO()
        Image.new("RGB", (2100, 2100), (color, 0, 0)).save(buffer, "PNG")
        return buffer.getvalue()

    limits = Limits(free_bytes=0, large_pixels=3 * 2100 * 2100, large_pixels_per_byte=10)
    files = {f"a/{color}.png": large(color) for color in range(5)}
    files["a/1.png"] = files["a/1.png"][:-20]
    source = written(tmp_path / "sent", {**files, "b/6.png": photo(6), "b/7.png": photo(7)})
    listing = DatasetStore(tmp_path / "datasets", limits).create("a", source)
    found = {file.path: file.code for file in listing.files}
    assert found == {
        **dict.fromkeys(("a/0.png", "a/2.png", "b/6.png", "b/7.png")),
        "a/1.png": "damaged_image",
        "a/3.png": "image_too_large",
        "a/4.png": "image_too_large",
    }

"""Files that are no backup, or not what was backed up: refused, and the home as before."""

import gzip
import hashlib
import io
import json
import sqlite3
import tarfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from cli.commands.backup import restore_backup, write_backup
from cli.output import CommandError
from contracts.settings import Settings
from tests.cli.backup.furnished import Furnished, furnish
from tests.models.datasets.packing import sparse_tar, zipped
from tests.ports import free_port


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Furnished:
    return furnish(tmp_path_factory.mktemp("origin") / "home", port=free_port())


@pytest.fixture(scope="module")
def whole(home: Furnished, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    out = tmp_path_factory.mktemp("out") / "backup.tar"
    write_backup(home.settings, out, secrets=False)
    return out.read_bytes()


Member = tuple[tarfile.TarInfo, bytes]
Change = Callable[[list[Member]], None]


def members(whole: bytes) -> list[Member]:
    with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
        found = []
        for one in tar:
            file = tar.extractfile(one)
            assert file is not None
            found.append((one, file.read()))
        return found


def packed(found: list[Member]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for one, data in found:
            one.size = len(data) if one.isreg() else 0
            tar.addfile(one, io.BytesIO(data))
    return buffer.getvalue()


def refused(tmp_path: Path, data: bytes, why: str) -> None:
    archive = tmp_path / "b.tar"
    archive.write_bytes(data)
    settings = Settings(home=tmp_path / "home", port=free_port())
    with pytest.raises(CommandError, match=why):
        restore_backup(settings, archive, force=False)
    left = {path.relative_to(settings.home).as_posix() for path in settings.home.rglob("*")}
    assert left == {"run", "run/up.lock", "run/use.lock", "logs", "valkey"}
    assert not (tmp_path / "outside").exists()


def added(name: str, data: bytes = b"x", at: int = 1, **fields: object) -> Change:
    def change(found: list[Member]) -> None:
        one = tarfile.TarInfo(name)
        vars_ = {"type": tarfile.REGTYPE} | fields
        for field, value in vars_.items():
            setattr(one, field, value)
        found.insert(at if at >= 0 else len(found), (one, data))

    return change


def changed(name: str) -> Change:
    def change(found: list[Member]) -> None:
        place = next(i for i, (one, _) in enumerate(found) if one.name.endswith(name))
        one, data = found[place]
        found[place] = (one, data[:-1] + bytes([data[-1] ^ 1]))

    return change


def without(name: str) -> Change:
    def change(found: list[Member]) -> None:
        found[:] = [(one, data) for one, data in found if not one.name.endswith(name)]

    return change


def doubled(name: str) -> Change:
    def change(found: list[Member]) -> None:
        place = next(i for i, (one, _) in enumerate(found) if one.name.endswith(name))
        found.insert(place, found[place])

    return change


def said(old: bytes, new: bytes) -> Change:
    """The header says something else, and the digests are as they were."""

    def change(found: list[Member]) -> None:
        one, data = found[0]
        assert old in data
        found[0] = (one, data.replace(old, new, 1))

    return change


def honest(found: list[Member], **told: object) -> None:
    """The header says something else, and the digests agree with it."""
    (one, data), (last, digests) = found[0], found[-1]
    new = json.dumps(json.loads(data) | told).encode()
    old, other = (hashlib.sha256(this).hexdigest().encode() for this in (data, new))
    assert old in digests
    found[0], found[-1] = (one, new), (last, digests.replace(old, other))


def counted(field: str, more: int) -> Change:
    def change(found: list[Member]) -> None:
        honest(found, **{field: json.loads(found[0][1])[field] + more})

    return change


def no_database_told(found: list[Member]) -> None:
    honest(found, database=None, revision=None)


def test_a_database_that_is_told_of_must_be_there(whole: bytes, tmp_path: Path) -> None:
    found = members(whole)
    place = next(i for i, (one, _) in enumerate(found) if one.name == "database/opsin.db")
    (_, data), (last, digests) = found.pop(place), found[-1]
    lines = [one for one in digests.splitlines(keepends=True) if b"database/" not in one]
    found[-1] = (last, b"".join(lines))
    told = json.loads(found[0][1])
    honest(found, files=told["files"] - 1, size=told["size"] - len(data))
    refused(tmp_path, packed(found), "database is missing")


@pytest.mark.parametrize("version", [None, "9999"])
def test_the_database_must_be_of_the_release_that_the_header_names(
    whole: bytes, tmp_path: Path, version: str | None
) -> None:
    """Otherwise it could not be upgraded, once everything is replaced."""
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE other (id)")
        if version is not None:
            other.execute("CREATE TABLE alembic_version (version_num)")
            other.execute("INSERT INTO alembic_version VALUES (?)", [version])
        other.commit()
    found = members(whole)
    place = next(i for i, (one, _) in enumerate(found) if one.name == "database/opsin.db")
    (one, old), new, (last, digests) = found[place], path.read_bytes(), found[-1]
    digest, its = (hashlib.sha256(data).hexdigest().encode() for data in (old, new))
    found[place], found[-1] = (one, new), (last, digests.replace(digest, its))
    honest(found, size=json.loads(found[0][1])["size"] + len(new) - len(old))
    refused(tmp_path, packed(found), "not of the release")


FOREIGN = {
    "parent": (added("store/../../outside"), "does not belong in a backup"),
    "absolute": (added("/store/outside"), "does not belong in a backup"),
    "dot": (added("store/./a"), "does not belong in a backup"),
    "unknown area": (added("weights/a"), "does not belong in a backup"),
    "top": (added("store"), "does not belong in a backup"),
    "newline": (added("store/a\nb"), "does not belong in a backup"),
    "backslash": (added("store/a\\b"), "does not belong in a backup"),
    "endless": (added("store/" + "a/" * 600 + "a"), "does not belong in a backup"),
    "uninvited keys": (added("secrets/faces.keys"), "does not belong in a backup"),
    "symlink": (
        added("store/a", type=tarfile.SYMTYPE, linkname="/etc"),
        "does not belong in a backup",
    ),
    "hard link": (
        added("store/a", type=tarfile.LNKTYPE, linkname="x"),
        "does not belong in a backup",
    ),
    "device": (added("store/a", type=tarfile.CHRTYPE), "does not belong in a backup"),
    "pipe": (added("store/a", type=tarfile.FIFOTYPE), "does not belong in a backup"),
    "folder": (added("store/a", type=tarfile.DIRTYPE), "does not belong in a backup"),
    "after the end": (added("store/a", at=-1), "does not belong in a backup"),
    "a file as a folder": (added("database/opsin.db/a", at=3), "does not belong in a backup"),
    "twice": (doubled("aliases.json"), "does not belong in a backup"),
    "more": (added("store/pets/9/a"), "not what was backed up"),
    "less": (without("labels.json"), "not what was backed up"),
    "other content": (changed("manifest.json"), "manifest.json is not what was backed up"),
    "other rows": (changed("opsin.db"), "opsin.db is not what was backed up"),
    "other digests": (changed("digests.txt"), "not what was backed up|damaged"),
    "no digests": (without("digests.txt"), "cut off"),
    "no header": (without("backup.json"), "not a backup of Opsin"),
    "another header": (said(b'"release"', b'"RELEASE"'), "later Opsin, or is not one"),
    "another time": (said(b'"created_at": "2', b'"created_at": "1'), "backup.json is not what was"),
    "another count": (said(b'"files": ', b'"files": 1'), "not what was backed up"),
    "a lower count": (counted("files", -1), "more or less"),
    "a higher count": (counted("files", 1), "more or less"),
    "a lower size": (counted("size", -1), "more or less"),
    "a higher size": (counted("size", 1), "more or less"),
    "a database that is not told of": (no_database_told, "does not belong in a backup"),
    "a journal beside the database": (
        added("database/opsin.db-wal"),
        "does not belong in a backup",
    ),
    "no database": (without("opsin.db"), "not what was backed up"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_no_backup_holds_is_refused(whole: bytes, tmp_path: Path, kind: str) -> None:
    change, why = FOREIGN[kind]
    found = members(whole)
    change(found)
    refused(tmp_path, packed(found), why)


@pytest.mark.parametrize("share", [0.001, 0.3, 0.7, 0.97])
def test_one_that_is_cut_off_is_refused(whole: bytes, tmp_path: Path, share: float) -> None:
    content = whole.rstrip(b"\0")  # what follows only fills the tar's last record
    refused(tmp_path, whole[: int(len(content) * share)], "cut off|not a backup")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"\0" * 20_000,
        zipped({"backup.json": b"{}"}),
        sparse_tar(),
        gzip.compress(b"x"),
    ],
    ids=["empty", "text", "zeros", "zip", "sparse", "gzip"],
)
def test_what_is_none_at_all_is_refused(tmp_path: Path, data: bytes) -> None:
    refused(tmp_path, data, "not a backup of Opsin|does not belong in a backup")


def test_one_of_a_later_release_says_so(whole: bytes, tmp_path: Path) -> None:
    def told(old: bytes, new: bytes) -> bytes:
        found = members(whole)
        header, data = found[0]
        assert old in data
        return packed([(header, data.replace(old, new)), *found[1:]])

    refused(tmp_path, told(b'"format": 1', b'"format": 2'), "later Opsin")
    (revision,) = [line for line in members(whole)[0][1].splitlines() if b'"revision"' in line]
    refused(tmp_path, told(revision, b'  "revision": "9999",'), "does not know")
    refused(tmp_path, told(b'"sqlite"', b'"postgresql"'), "names sqlite")

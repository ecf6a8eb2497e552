"""Reads and changes a listing of 100,000 files without making an object of everything in it.

A listing is one line of JSON, written by pydantic with its fields in a fixed order. Adding an image
to a large dataset changes a few of its entries, so they are found by a regular expression, and the
rest is copied as it is.
"""

import mmap
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from pydantic_core import from_json, to_json

from contracts.training.datasets import DatasetFile, FileStatus, Listing, SplitName, frame_of
from models.datasets.listing import LISTING, damaged, not_found, read_listing, write_listing

_STRING = rb'"[^"\\]*(?:\\.[^"\\]*)*"'
_TEXT = rb"(?:null|" + _STRING + rb")"
_NUMBER = rb"(?:null|\d+)"
_ENTRY = re.compile(
    rb'\{"id":' + _STRING + rb',"path":(' + _STRING + rb'),"status":"(admitted|rejected)"'
    rb',"label":(' + _TEXT + rb'),"split":(' + _TEXT + rb'),"given_split":(' + _TEXT + rb")"
    rb',"sha256":(' + _TEXT + rb'),"size":(\d+),"width":' + _NUMBER + rb',"height":' + _NUMBER
    + rb',"media_type":' + _TEXT + rb',"code":(' + _TEXT + rb')'
    rb',"detail":' + _TEXT + rb',"action":' + _TEXT + rb"\}"
)  # fmt: skip
_FILES = b',"files":['  # cannot be part of a string, in which the quotes are escaped
_END = b"]}"


@dataclass(frozen=True, slots=True)
class ListedFile:
    """What counts and splits depend on; the rest of the file's entry stays in the listing.

    Attributes:
        frame: See `frame_of`; None too if it was not given to training, where alone it matters.
        start: Where its entry begins in the listing, in bytes.
        end: Where its entry ends.
    """

    status: FileStatus
    label: str | None
    split: SplitName | None
    given_split: SplitName | None
    sha256: str | None
    size: int
    code: str | None
    frame: tuple[str, int] | None
    start: int
    end: int


class OpenListing:
    """The listing of one dataset; from `open_listing`.

    Attributes:
        head: The listing without its files.
        files: All files, in order.
        paths: The paths of the files in the folder that `open_listing` was asked for.
    """

    def __init__(self, content: mmap.mmap, folder: str) -> None:
        self._content = content
        begin = content.find(_FILES)
        if begin < 0 or content[-len(_END) :] != _END:
            raise ValueError("not written by Opsin")
        begin += len(_FILES)
        self.head = Listing.model_validate_json(content[:begin] + _END)
        prefix = to_json(folder)[:-1] + b"/"
        self.paths: set[str] = set()
        self.files: list[ListedFile] = []
        for match in _ENTRY.finditer(content, begin):
            # Entries follow each other without a gap, except for the comma.
            if match.start() != begin:
                raise ValueError("not written by Opsin")
            begin = match.end() + 1
            if match[1].startswith(prefix):
                self.paths.add(from_json(match[1]))
            self.files.append(_listed(match))
        if begin - bool(self.files) != len(content) - len(_END):
            raise ValueError("not written by Opsin")

    def entry(self, place: int) -> DatasetFile:
        """The whole entry of a file."""
        file = self.files[place]
        return DatasetFile.model_validate_json(self._content[file.start : file.end])

    def write(
        self,
        draft: BinaryIO,
        head: Listing,
        changed: Mapping[int, DatasetFile],
        added: Sequence[DatasetFile],
    ) -> None:
        """Write this listing with another head, some changed entries and new ones at its end.

        Args:
            head: As the attribute; its files are ignored.
            changed: Entries by their place.
        """
        draft.write(head.model_copy(update={"files": []}).model_dump_json().encode()[: -len(_END)])
        at = self.files[0].start if self.files else 0
        for place in sorted(changed):
            file = self.files[place]
            draft.write(self._content[at : file.start])
            draft.write(changed[place].model_dump_json().encode())
            at = file.end
        draft.write(self._content[at : self.files[-1].end] if self.files else b"")
        lines = [file.model_dump_json().encode() for file in added]
        if lines:
            draft.write((b"," if self.files else b"") + b",".join(lines))
        draft.write(_END)


@contextmanager
def open_listing(dataset: Path, folder: str) -> Iterator[OpenListing]:
    """Read the listing of a dataset, and keep it open while the block runs.

    Args:
        dataset: The folder of the dataset, which must be locked.
        folder: A folder within the dataset, whose paths are collected.

    Raises:
        DatasetNotFound: It is not a dataset, or its listing is damaged.
    """
    with _mapped(dataset) as content:
        listing = _parsed(content, folder)
        if listing is not None:
            yield listing
            return
    # Something else has written it: bring it into the form of Opsin once.
    write_listing(dataset, read_listing(dataset))
    with _mapped(dataset) as content:
        listing = _parsed(content, folder)
        if listing is None:
            raise damaged()
        yield listing


@contextmanager
def _mapped(dataset: Path) -> Iterator[mmap.mmap]:
    try:
        with (dataset / LISTING).open("rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise not_found() from None
    except (OSError, ValueError):  # ValueError: it is empty
        raise damaged() from None
    with content:
        yield content


def _parsed(content: mmap.mmap, folder: str) -> OpenListing | None:
    try:
        return OpenListing(content, folder)
    except ValueError:
        return None


def _listed(match: re.Match[bytes]) -> ListedFile:
    path, status, label, split, given, sha256, size, code = match.groups()
    return ListedFile(
        status="admitted" if status == b"admitted" else "rejected",
        label=_text(label),
        split=_text(split),  # type: ignore[arg-type]  # as it was written
        given_split=_text(given),  # type: ignore[arg-type]
        sha256=None if sha256 == b"null" else sha256[1:-1].decode(),
        size=int(size),
        code=_text(code),
        frame=frame_of(from_json(path)) if given == b'"train"' else None,
        start=match.start(),
        end=match.end(),
    )


@lru_cache(maxsize=4096)
def _text(raw: bytes) -> str | None:
    value: Any = from_json(raw)
    return value if value is None else str(value)

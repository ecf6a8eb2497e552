"""`listing.json`: the file that makes a folder a dataset. It is written last, and atomically."""

import os
import re
from pathlib import Path

from pydantic import ValidationError

from contracts.errors import DatasetNotFound
from contracts.files import flush_entries
from contracts.training.datasets import Listing
from models.datasets.admission import content_path
from models.datasets.dataset import Dataset, Example

LISTING = "listing.json"

_STRING = rb'"[^"\\]*(?:\\.[^"\\]*)*"'
_HEAD_BYTES = 4096  # more than the fields before the revision ever take
_HEAD = re.compile(
    rb'\{"info":\{"id":' + _STRING + rb',"name":' + _STRING + rb',"digest":' + _STRING
    + rb',"revision":(\d+)[,}]'
)  # fmt: skip


def write_listing(folder: Path, listing: Listing) -> None:
    """Replace the listing of a folder; a reader sees either the old or the new one."""
    draft = folder / f".{LISTING}.{os.getpid()}"
    draft.write_text(listing.model_dump_json(), encoding="utf-8")
    flush_entries(draft)
    draft.rename(folder / LISTING)
    flush_entries(folder)


def read_listing(folder: Path) -> Listing:
    """Read the listing of a folder.

    Raises:
        DatasetNotFound: The folder is not a dataset, or its listing is damaged.
    """
    try:
        return Listing.model_validate_json((folder / LISTING).read_bytes())
    except FileNotFoundError:
        raise not_found() from None
    except (ValidationError, OSError):
        raise damaged() from None


def read_revision(folder: Path) -> int:
    """The revision of a dataset, from the beginning of its listing.

    Raises:
        DatasetNotFound: As `read_listing`.
    """
    try:
        with (folder / LISTING).open("rb") as file:
            head = _HEAD.match(file.read(_HEAD_BYTES))
    except FileNotFoundError:
        raise not_found() from None
    except OSError:
        raise damaged() from None
    return int(head[1]) if head else read_listing(folder).info.revision


def not_found() -> DatasetNotFound:
    """The error for a dataset that does not exist."""
    return DatasetNotFound("There is no dataset with that id. `GET /v1/datasets` lists all.")


def damaged() -> DatasetNotFound:
    """The error for a dataset whose listing cannot be read."""
    return DatasetNotFound("The dataset's listing is damaged. Delete it and upload it again.")


def load_folder(folder: Path) -> Dataset:
    """The dataset in a folder, as a training sees it. Reads the listing, but no images.

    Raises:
        DatasetNotFound: The folder is not a dataset, or images are missing or truncated.
    """
    listing = read_listing(folder)
    examples = [
        Example(content_path(folder, file.sha256), file.label, file.split, file.sha256)
        for file in listing.files
        if file.status == "admitted" and file.sha256 and file.label and file.split
    ]
    sizes = {file.sha256: file.size for file in listing.files if file.sha256}
    missing = sum(not _has_size(example.path, sizes[example.sha256]) for example in examples)
    if missing:
        raise DatasetNotFound(
            f"{missing} images of the dataset are missing on the disk. Upload it again."
        )
    ordered = sorted(examples, key=lambda example: (example.label, example.sha256))
    return Dataset(
        listing.info.name, listing.info.digest, tuple(listing.info.classes), tuple(ordered)
    )


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False

"""`listing.json`: the file whose presence makes a folder a dataset, written last and whole."""

import os
from pathlib import Path

from pydantic import ValidationError

from contracts.errors import DatasetNotFound
from contracts.training.datasets import Listing
from models.datasets.admission import content_path
from models.datasets.dataset import Dataset, Example
from models.store.staging import flush_entries

LISTING = "listing.json"


def write_listing(folder: Path, listing: Listing) -> None:
    """Replace the listing of a folder; a reader sees the old one or the new one."""
    draft = folder / f".{LISTING}.{os.getpid()}"
    draft.write_text(listing.model_dump_json(), encoding="utf-8")
    flush_entries(draft)
    draft.rename(folder / LISTING)
    flush_entries(folder)


def read_listing(folder: Path) -> Listing:
    """What a folder says it holds.

    Raises:
        DatasetNotFound: It is no dataset, or its listing is damaged.
    """
    try:
        return Listing.model_validate_json((folder / LISTING).read_bytes())
    except FileNotFoundError:
        raise DatasetNotFound(
            "There is no dataset of that id. `GET /v1/datasets` lists all."
        ) from None
    except (ValidationError, OSError):
        raise DatasetNotFound(
            "The dataset's listing is damaged. Delete it and upload it again."
        ) from None


def load_folder(folder: Path) -> Dataset:
    """The dataset in a folder, as a training sees it. Reads the listing, and no picture.

    Raises:
        DatasetNotFound: It is no dataset, or pictures of it are missing or cut off.
    """
    listing = read_listing(folder)
    examples = [
        Example(content_path(folder, one.sha256), one.label, one.split, one.sha256)
        for one in listing.files
        if one.status == "admitted" and one.sha256 and one.label and one.split
    ]
    sizes = {one.sha256: one.size for one in listing.files if one.sha256}
    gone = sum(not _is_whole(one.path, sizes[one.sha256]) for one in examples)
    if gone:
        raise DatasetNotFound(
            f"{gone} pictures of the dataset are gone from the disk. Upload it again."
        )
    ordered = sorted(examples, key=lambda one: (one.label, one.sha256))
    return Dataset(
        listing.info.name, listing.info.digest, tuple(listing.info.classes), tuple(ordered)
    )


def _is_whole(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False

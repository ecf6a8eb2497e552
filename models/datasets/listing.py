"""`listing.json`: the file that makes a folder a dataset. It is written last, and atomically."""

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
        raise DatasetNotFound(
            "There is no dataset with that id. `GET /v1/datasets` lists all."
        ) from None
    except (ValidationError, OSError):
        raise DatasetNotFound(
            "The dataset's listing is damaged. Delete it and upload it again."
        ) from None


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

"""Images whose classes are known."""

import csv
from collections.abc import Iterator
from pathlib import Path


def labeled(folder: Path) -> Iterator[tuple[Path, int]]:
    """The images of the folder with their classes."""
    with (folder / "labels.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            yield folder / row["file"], int(row["class_index"])

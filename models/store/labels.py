"""The names of a network's classes: ImageNet's, and those in `labels.json` of a version."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter

LABELS = "labels.json"


@dataclass(frozen=True, slots=True)
class Label:
    """One class.

    Attributes:
        id: For ImageNet, the WordNet synset.
        text: Its name, for people. Not unique: ImageNet has two cranes, a bird and a machine.
    """

    id: str
    text: str


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid")

    id: str
    label: str


_ROWS = TypeAdapter(list[_Row])


@cache
def imagenet_labels() -> tuple[Label, ...]:
    """The 1,000 classes of ImageNet, sorted by synset, the order of every catalog network."""
    table = resources.files("models.store").joinpath("imagenet.tsv").read_text(encoding="utf-8")
    rows = [line.split("\t") for line in table.splitlines() if not line.startswith("#")]
    return tuple(Label(synset, text) for _index, synset, text in rows)


def write_labels(folder: Path, labels: Sequence[Label]) -> None:
    """Write the class names of a version; empty for a base without a classifier."""
    rows = [_Row(id=label.id, label=label.text) for label in labels]
    (folder / LABELS).write_bytes(_ROWS.dump_json(rows, indent=1))


def read_labels(folder: Path) -> tuple[Label, ...]:
    """The class names of the version in `folder`.

    Raises:
        OSError: The file cannot be read.
        pydantic.ValidationError: The file is malformed.
    """
    rows = _ROWS.validate_json((folder / LABELS).read_bytes())
    return tuple(Label(row.id, row.label) for row in rows)


def normalized(name: str) -> str:
    """A class name as it is compared: without regard to case, underscores and outer spaces."""
    return name.strip().casefold().replace("_", " ")


def class_indices(labels: Sequence[Label]) -> dict[str, int]:
    """The index of each class by its normalized id and, if no other class has it, its name."""
    indices = {normalized(label.id): index for index, label in enumerate(labels)}
    names = Counter(normalized(label.text) for label in labels)
    for index, label in enumerate(labels):
        if names[normalized(label.text)] == 1:
            indices.setdefault(normalized(label.text), index)
    return indices

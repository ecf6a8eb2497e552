"""The names of a network's classes: ImageNet's, and those in `labels.json` of a version."""

from collections import Counter
from collections.abc import Iterable, Sequence
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


class ClassIndices:
    """Finds the index of a version's class by the name that a dataset gives it.

    The exact id comes first, then the exact text. Without regard to case, underscores and outer
    spaces, an id and then a text count if no other class has the same one: `Cat` and `cat` may be
    two classes.
    """

    def __init__(self, labels: Sequence[Label]) -> None:
        ids = [label.id for label in labels]
        texts = [label.text for label in labels]
        self._exact = _unique(texts) | _unique(ids)
        self._similar = _unique(map(_normalized, texts)) | _unique(map(_normalized, ids))

    def find(self, name: str) -> int | None:
        """The index of the class; None if there is none, or no single one."""
        index = self._exact.get(name)
        return self._similar.get(_normalized(name)) if index is None else index


def _normalized(name: str) -> str:
    return name.strip().casefold().replace("_", " ")


def _unique(names: Iterable[str]) -> dict[str, int]:
    """The place of each name that occurs once."""
    places: dict[str, int] = {}
    counts = Counter[str]()
    for place, name in enumerate(names):
        places[name] = place
        counts[name] += 1
    return {name: place for name, place in places.items() if counts[name] == 1}

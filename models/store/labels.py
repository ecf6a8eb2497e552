"""What the outputs of a network are called.

`labels.json` of a version: what its outputs are called, in their order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter

from models.catalog import Network


@dataclass(frozen=True, slots=True)
class Label:
    """One class.

    Attributes:
        id: Its own id; for ImageNet the WordNet synset.
        text: Its name, for people. Not unique: ImageNet has two cranes, a bird and a machine.
    """

    id: str
    text: str


@cache
def imagenet_labels() -> tuple[Label, ...]:
    """The 1,000 classes of ImageNet, in the order of every network's output here (by synset)."""
    table = resources.files("models.store").joinpath("imagenet.tsv").read_text(encoding="utf-8")
    rows = [line.split("\t") for line in table.splitlines() if not line.startswith("#")]
    return tuple(Label(synset, text) for _index, synset, text in rows)


def labels_of(network: Network) -> tuple[Label, ...]:
    """The classes of a catalog network with its published weights: ImageNet's, for all of them."""
    if network.classes != len(imagenet_labels()):
        raise ValueError(f"{network.name} was not trained on ImageNet's 1,000 classes")
    return imagenet_labels()


LABELS = "labels.json"


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid")

    id: str
    label: str


_ROWS = TypeAdapter(list[_Row])


def write_labels(folder: Path, labels: Sequence[Label]) -> None:
    """Write the names of a version's classes; a base alone has none."""
    rows = [_Row(id=label.id, label=label.text) for label in labels]
    (folder / LABELS).write_bytes(_ROWS.dump_json(rows, indent=1))


def read_labels(folder: Path) -> tuple[Label, ...]:
    """The names of the classes of the version in `folder`.

    Raises:
        OSError: There is no such file.
        pydantic.ValidationError: It is broken.
    """
    rows = _ROWS.validate_json((folder / LABELS).read_bytes())
    return tuple(Label(row.id, row.label) for row in rows)

"""What the outputs of a network are called."""

from dataclasses import dataclass
from functools import cache
from importlib import resources


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
    table = resources.files("models").joinpath("imagenet.tsv").read_text(encoding="utf-8")
    rows = [line.split("\t") for line in table.splitlines() if not line.startswith("#")]
    return tuple(Label(synset, text) for _index, synset, text in rows)

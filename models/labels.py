"""What the outputs of a network are called."""

from dataclasses import dataclass
from functools import cache
from importlib import resources

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
    table = resources.files("models").joinpath("imagenet.tsv").read_text(encoding="utf-8")
    rows = [line.split("\t") for line in table.splitlines() if not line.startswith("#")]
    return tuple(Label(synset, text) for _index, synset, text in rows)


def labels_of(network: Network) -> tuple[Label, ...]:
    """The classes of a catalog network with its published weights: ImageNet's, for all of them."""
    if network.classes != len(imagenet_labels()):
        raise ValueError(f"{network.name} was not trained on ImageNet's 1,000 classes")
    return imagenet_labels()

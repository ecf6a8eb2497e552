"""What a training sees of a dataset: labelled pictures, each in one split."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True, slots=True)
class Example:
    """One picture.

    Attributes:
        path: Its file; admitted, so `models.images.decode` can decode it.
        label: The name of its class.
        split: What it is for.
        sha256: Of the file, hex; tells pictures with the same content.
        content: The file itself, for pictures that must not lie on a disk; `path` then only
            names it.
    """

    path: Path
    label: str
    split: Split
    sha256: str
    content: bytes | None = field(default=None, repr=False)

    def read(self) -> bytes:
        """The file.

        Raises:
            OSError: It cannot be read.
        """
        return self.path.read_bytes() if self.content is None else self.content


@dataclass(frozen=True, slots=True)
class Dataset:
    """Labelled pictures that belong together.

    Attributes:
        name: What people call it.
        digest: `sha256:` and the hash of all labels, splits and files; equal for equal content.
        classes: Names of the classes, sorted; a class's position is its index in a network.
        examples: All pictures, in an order that depends on the content alone.
    """

    name: str
    digest: str
    classes: tuple[str, ...]
    examples: tuple[Example, ...]

    def of(self, split: Split) -> tuple[Example, ...]:
        """The pictures of one split."""
        return tuple(one for one in self.examples if one.split == split)

"""A dataset as a training sees it: labeled images, each in one split."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True, slots=True)
class Example:
    """One labeled image.

    Attributes:
        path: The file, which `models.images.decode` is known to decode.
        sha256: SHA-256 of the file, in hex; equal for images with the same content.
        content: The file itself, if the image must not be on the disk; `path` then only names it.
    """

    path: Path
    label: str
    split: Split
    sha256: str
    content: bytes | None = field(default=None, repr=False)

    def read(self) -> bytes:
        """The content of the file.

        Raises:
            OSError: The file cannot be read.
        """
        return self.path.read_bytes() if self.content is None else self.content


@dataclass(frozen=True, slots=True)
class Dataset:
    """Labeled images.

    Attributes:
        digest: `sha256:` and the hash of all labels, splits and files; equal for equal content.
        classes: Names of the classes, sorted; the position of a class is its index in a network.
        examples: All images, in an order that depends only on the content.
    """

    name: str
    digest: str
    classes: tuple[str, ...]
    examples: tuple[Example, ...]

    def of(self, split: Split) -> tuple[Example, ...]:
        """The images of one split."""
        return tuple(example for example in self.examples if example.split == split)

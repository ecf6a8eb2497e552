"""What a training learns from: a dataset of the library, or pictures that nobody else may see."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from contracts.errors import NotTrainable
from contracts.settings import Settings
from contracts.training.trainings import TrainingRequest
from models.datasets.dataset import Dataset
from models.datasets.library import Library


@dataclass(frozen=True, slots=True)
class Material:
    """Labelled pictures.

    Attributes:
        dataset: The pictures.
        names: By the hash of a file, what it was called.
        private: Whether no picture may be shown, or lie in what is published.
    """

    dataset: Dataset
    names: Mapping[str, str] = field(default_factory=dict)
    private: bool = False


class Supply(Protocol):
    """Where a training gets its material from."""

    def load(self) -> Material:
        """The material.

        Raises:
            OpsinError: It is not there, or nothing can be learned from it; says which.
        """
        ...

    def require(self) -> None:
        """Raises an OpsinError if what was learned may not be published (any more)."""
        ...


@dataclass(frozen=True, slots=True)
class FromLibrary:
    """A dataset.

    Attributes:
        library: Where it is.
        dataset_id: Which.
    """

    library: Library
    dataset_id: str

    @classmethod
    def of(cls, request: TrainingRequest, settings: Settings) -> "FromLibrary":
        """The one that a request names."""
        if request.dataset_id is None:
            raise NotTrainable("A training of subjects runs on a worker only. Name a dataset.")
        return cls(Library.of(settings), request.dataset_id)

    def load(self) -> Material:
        """As `Supply.load`.

        Raises:
            DatasetNotFound: There is no such dataset.
            NotTrainable: Nothing can be learned from it.
        """
        listing = self.library.listing(self.dataset_id)
        if not listing.info.trainable:
            raise NotTrainable(listing.info.reason or "The dataset cannot be learned from.")
        # A copy that was left out has the same hash, and its name would say what nobody learned
        # from.
        names = {
            one.sha256: one.path for one in listing.files if one.sha256 and one.status == "admitted"
        }
        return Material(self.library.load(self.dataset_id), names)

    def require(self) -> None:
        """What was learned of a dataset may be published whatever becomes of it."""

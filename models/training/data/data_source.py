"""Where a training gets its data from: a dataset of the library, or images that stay private."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from contracts.errors import NotTrainable
from contracts.settings import Settings
from contracts.training.trainings import TrainingRequest
from models.datasets.dataset import Dataset
from models.datasets.store import DatasetStore
from models.training.validation import select_classes


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Labeled images.

    Attributes:
        dataset: The images with their classes and splits.
        names: The original file name by the SHA-256 of the file.
        private: True if no image may be shown, or stored in the published version.
    """

    dataset: Dataset
    names: Mapping[str, str] = field(default_factory=dict)
    private: bool = False


class DataSource(Protocol):
    """Loads the data of one training."""

    def load(self) -> TrainingData:
        """Load the data; the same data every time.

        Raises:
            OpsinError: The data is missing or cannot be trained on; the message says why.
        """
        ...

    def check_publishable(self) -> None:
        """Check that a model trained on this data may be published.

        Raises:
            OpsinError: The permission has been withdrawn, e.g. because a subject was erased.
        """
        ...


@dataclass(frozen=True, slots=True)
class LibrarySource:
    """A dataset of the library."""

    library: DatasetStore
    dataset_id: str
    classes: tuple[str, ...] | None = None

    @classmethod
    def of(cls, request: TrainingRequest, settings: Settings) -> "LibrarySource":
        """The dataset that a request names."""
        if request.dataset_id is None:
            raise NotTrainable(
                "A training of subjects runs only on a worker of the service. Name a dataset."
            )
        return cls(DatasetStore.of(settings), request.dataset_id, request.classes)

    def load(self) -> TrainingData:
        """Implements `DataSource.load`.

        Raises:
            DatasetNotFound: There is no such dataset.
            NotTrainable: It has too few images or classes.
            ValidationFailed: It has no class of a name that the request selects.
        """
        listing = self.library.listing(self.dataset_id)
        if not listing.info.trainable:
            raise NotTrainable(listing.info.reason or "The dataset cannot be trained on.")
        # A rejected duplicate has the same hash as the admitted file, but another name.
        names = {
            file.sha256: file.path
            for file in listing.files
            if file.sha256 and file.status == "admitted"
        }
        dataset = self.library.load(self.dataset_id)
        return TrainingData(select_classes(dataset, self.classes), names)

    def check_publishable(self) -> None:
        """A version stays publishable even if its dataset is deleted meanwhile."""

"""One version from the store, loaded and warmed.

It runs the SavedModel and knows nothing of Keras or of the network's code, so it serves whatever
was published, the zoo and what was trained here alike. Batches are padded to a few sizes: the
graph takes any size, but each new one costs the kernels a first, slow run.
"""

import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from contracts.errors import VersionNotFound
from contracts.inference import LaneOperation, Operation
from contracts.manifest import Endpoint, Manifest
from contracts.messages import Pixels
from models.batches import batch_sizes
from models.endpoints import OUTPUTS, PROBABILITY, TARGET
from models.explain.explanations import Explanations, Indices
from models.label_file import read_labels
from models.manifest import read_manifest
from models.store import Store

Outputs = npt.NDArray[np.float32]
_ENDPOINTS: dict[Operation, Endpoint] = {"classify": "serve", "embed": "features"}


class VersionPredictor:
    """A model version that answers.

    Args:
        folder: The version's own, from `Store.path`.
        max_batch_size: Most pictures that run together.

    Attributes:
        manifest: What the version says of itself.
        version: Its number.
        labels: What its classes are called, in the order of the probabilities.
        operations: What it can be asked for.
        classes: Size of the probabilities; None without a classifier.
        runtime: What runs it.
        batch_sizes: The sizes a batch is padded to, ascending.
        traces: Always one an endpoint: the graphs come traced.
        load_seconds: What reading the files took.
    """

    runtime = "tensorflow-float32"

    def __init__(self, folder: Path, *, max_batch_size: int) -> None:
        started = time.monotonic()
        self.manifest: Manifest = read_manifest(folder)
        # Kept alive beside its signatures, which hold its variables only weakly.
        self._loaded = tf.saved_model.load(str(folder / "saved_model"))
        self.load_seconds = time.monotonic() - started
        self.version = self.manifest.version
        self.labels = read_labels(folder)
        self.classes = self.manifest.classes
        endpoints = self.manifest.endpoints
        vectors = [name for name, endpoint in _ENDPOINTS.items() if endpoint in endpoints]
        maps: tuple[LaneOperation, ...] = ("heatmap",) if "explain" in endpoints else ()
        # These two need `model.keras`, which every version has.
        self.operations: tuple[LaneOperation, ...] = (*vectors, *maps, "explain", "study")
        self.batch_sizes = batch_sizes(max_batch_size)
        self.traces = len(endpoints)

    def warm(self, seconds: float = 1.5) -> None:
        """Run every operation at growing batch sizes, so that no request pays for a first run.

        Args:
            seconds: A larger batch is tried as long as the operation has not taken longer. What
                a slow network would still gain is little beside what it costs anyhow.
        """
        for endpoint in self.manifest.endpoints:
            until = time.monotonic() + seconds
            for size in self.batch_sizes:
                blank = np.zeros((size, *self.manifest.input_size, 3), np.uint8)
                explains = endpoint.startswith("explain")
                self._answers(endpoint, blank, np.zeros(size, np.int32) if explains else None)
                if time.monotonic() > until:
                    break

    def run(self, operation: Operation, images: Pixels) -> Outputs:
        """Answer for each picture.

        Args:
            operation: One of `operations`.
            images: RGB of the version's input size, shape (n, height, width, 3), uint8; any n.

        Returns:
            float32: probabilities (n, classes), or features (n, features).

        Raises:
            VersionNotFound: `operation` is none of `operations`.
            ValueError: `images` has another shape or dtype.
        """
        if operation not in self.operations:
            raise VersionNotFound(
                f"'{self.manifest.model}' version {self.version} cannot {operation}: it has "
                f"{', '.join(self.operations)} only. Use another version or model."
            )
        width = self.manifest.features if operation == "embed" else self.manifest.classes or 0
        if not len(images):
            return np.zeros((0, width), np.float32)
        endpoint = _ENDPOINTS[operation]
        return self._answers(endpoint, images)[OUTPUTS[endpoint]]

    def explain(self, images: Pixels, classes: Indices, *, hires: bool = False) -> Explanations:
        """Why each picture would be of its class; one pass forward and one back.

        Args:
            images: As for `run`, at least one.
            classes: The class to explain of each, shape (n,), int32; a negative one stands for
                the most probable.
            hires: HiResCAM instead of Grad-CAM.
        """
        endpoint: Endpoint = "explain_hires" if hires else "explain"
        if TARGET not in self._loaded.signatures[endpoint].structured_outputs:
            return self._explain_apart(endpoint, images, classes)
        told = self._answers(endpoint, images, classes)
        targets = told[TARGET].astype(np.int32, copy=False)
        return Explanations(told[OUTPUTS[endpoint]], targets, told[PROBABILITY])

    def _explain_apart(self, endpoint: Endpoint, images: Pixels, classes: Indices) -> Explanations:
        """The same of a version whose endpoint tells only the grid: a second pass says the rest."""
        probabilities = self.run("classify", images)
        targets = np.where(classes < 0, probabilities.argmax(axis=1), classes).astype(np.int32)
        grids = self._answers(endpoint, images, targets)[OUTPUTS[endpoint]]
        return Explanations(grids, targets, probabilities[np.arange(len(images)), targets])

    def _answers(
        self, endpoint: Endpoint, images: Pixels, classes: Indices | None = None
    ) -> dict[str, Outputs]:
        if images.dtype != np.uint8 or images.shape[1:] != (*self.manifest.input_size, 3):
            raise ValueError(
                f"{self.manifest.model} takes uint8 pictures of {self.manifest.input_size}, "
                f"not {images.dtype} of shape {images.shape}"
            )
        largest = self.batch_sizes[-1]
        answers = [
            self._chunk(endpoint, images[at : at + largest], classes, at)
            for at in range(0, len(images), largest)
        ]
        return {name: np.concatenate([one[name] for one in answers]) for name in answers[0]}

    def _chunk(
        self, endpoint: Endpoint, images: Pixels, classes: Indices | None, at: int
    ) -> dict[str, Outputs]:
        count = len(images)
        padding = next(size for size in self.batch_sizes if size >= count) - count
        given = {"images": tf.constant(np.pad(images, ((0, padding), (0, 0), (0, 0), (0, 0))))}
        if classes is not None:
            given["class_index"] = tf.constant(np.pad(classes[at : at + count], (0, padding)))
        answers = self._loaded.signatures[endpoint](**given)
        return {name: answer.numpy()[:count] for name, answer in answers.items()}


def load_version(
    store: Store, model: str, version: int | str | None = None, *, max_batch_size: int
) -> VersionPredictor:
    """Load a version from the store; it still has to be warmed.

    Raises:
        ModelNotFound: There is no such model.
        VersionNotFound: It has no such version or alias.
    """
    number = store.resolve(model, version)
    return VersionPredictor(store.path(model, number), max_batch_size=max_batch_size)

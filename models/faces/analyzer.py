"""Analyzes images with one object: detects, tracks and embeds faces."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from contracts.faces.faces import FACE_MODEL
from contracts.queue.messages import Pixels, Vector
from contracts.settings import Settings
from models.faces.detection.detection import DetectedFace
from models.faces.detection.finder import FaceFinder, open_finder
from models.serving.predictor import load_version
from models.serving.runtime import RuntimeOptions
from models.store.store import Store
from models.weights.catalog import Weights

_BATCH = 16


class FaceAnalyzer:
    """Detects, measures and embeds faces. Not thread-safe.

    Args:
        embed: Maps face crops (n, 150, 150, 3) to embeddings.

    Attributes:
        version: The version of `face_embedder` in the store that computes the embeddings.
    """

    def __init__(self, finder: FaceFinder, embed: Callable[[Pixels], Vector], version: int) -> None:
        self._finder = finder
        self._embed = embed
        self.version = version

    def find(self, image: Pixels, max_faces: int = 32) -> list[DetectedFace]:
        """Detect faces, largest first.

        Args:
            image: RGB uint8 (height, width, 3), upright, of any size. Detection works at
                `contracts.faces.faces.LONGEST_SIDE` pixels; results are in pixels of this image.
        """
        return self._finder.find(image, max_faces).faces

    def track(self, image: Pixels, previous: DetectedFace | None) -> DetectedFace | None:
        """Find the face of the previous frame of a video in the next one, otherwise the largest.

        Args:
            image: As for `find`.
            previous: The face in the previous frame, which has the same size; None to search the
                whole image.
        """
        if previous is not None:
            tracked = self._finder.track(image, previous)
            if tracked is not None:
                return tracked
        return next(iter(self._finder.find(image, 1).faces), None)

    def embed(self, crops: Pixels) -> Vector:
        """Compute an embedding per face, float32 (n, 128), each of unit length.

        Args:
            crops: As `DetectedFace.crop`, uint8 (n, 150, 150, 3); n may be 0.
        """
        return self._embed(crops)


def open_embedder(
    settings: Settings, store: Store, version: int, *, threads: int
) -> Callable[[Pixels], Vector]:
    """Load a version of the embedder; returns what `FaceAnalyzer.embed` is for the champion.

    Raises:
        VersionNotFound: The version was deleted.
    """
    options = replace(RuntimeOptions.of(settings), threads=threads)
    network = load_version(store, FACE_MODEL, version, max_batch_size=_BATCH, options=options)
    return partial(network.run, "embed")


def open_analyzer(settings: Settings, store: Store, *, threads: int) -> FaceAnalyzer:
    """Load the weights of this installation and the champion embedder of the store.

    Raises:
        WeightsMissing: The weights of the detector or the mesh are missing; says what to do.
        ModelNotFound: `face_embedder` has not been imported.
        VersionNotFound: It has no alias `champion`.
    """
    finder = open_finder(Weights.of(settings), threads=threads)
    options = replace(RuntimeOptions.of(settings), threads=threads)
    network = load_version(store, FACE_MODEL, max_batch_size=_BATCH, options=options)
    return FaceAnalyzer(finder, partial(network.run, "embed"), network.version)

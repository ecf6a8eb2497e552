"""From a picture to its faces and from faces to embeddings: the one door to all of this package."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from contracts.faces.faces import FACE_MODEL
from contracts.queue.messages import Pixels, Vector
from contracts.settings import Settings
from models.faces.detection.detection import FoundFace
from models.faces.detection.finder import FaceFinder, open_finder
from models.serving.predictor import load_version
from models.serving.runtime import RuntimeOptions
from models.store.store import Store
from models.weights.catalog import Weights

_BATCH = 16


class FaceAnalyser:
    """Finds, measures and embeds faces. Not safe among threads: each keeps its own.

    Args:
        finder: What finds and measures.
        embed: Chips (n, 150, 150, 3) to embeddings.
        version: Whose embeddings those are.

    Attributes:
        version: Of `face_embedder` in the store, whose embeddings `embed` gives.
    """

    def __init__(self, finder: FaceFinder, embed: Callable[[Pixels], Vector], version: int) -> None:
        self._finder = finder
        self._embed = embed
        self.version = version

    def find(self, picture: Pixels, most: int = 32) -> list[FoundFace]:
        """The faces of a picture, the largest first.

        Args:
            picture: RGB uint8 (height, width, 3), upright, of any size; faces are looked for at
                `contracts.faces.faces.LONGEST_SIDE` pixels, and told in pixels of this picture.
            most: Only so many.
        """
        return self._finder.look(picture, most).faces

    def track(self, picture: Pixels, previous: FoundFace | None) -> FoundFace | None:
        """The face of the next frame of a video: where it was, or else the largest; None if none.

        Args:
            picture: As for `find`.
            previous: The face of the frame before, in a picture of the same size; None looks
                everywhere.
        """
        if previous is not None:
            followed = self._finder.follow(picture, previous)
            if followed is not None:
                return followed
        return next(iter(self._finder.look(picture, 1).faces), None)

    def embed(self, chips: Pixels) -> Vector:
        """One embedding a face, float32 (n, 128), each of length 1.

        Args:
            chips: As `FoundFace.chip`, uint8 (n, 150, 150, 3); any n, 0 too.
        """
        return self._embed(chips)


def open_analyser(settings: Settings, store: Store, *, threads: int) -> FaceAnalyser:
    """An analyser with the weights of this installation and the store's champion embedder.

    Args:
        settings: Where the weights are and how networks are run.
        store: Holds `face_embedder`.
        threads: To compute with.

    Raises:
        WeightsMissing: The detector or the mesh is not on this machine; says what helps.
        ModelNotFound: `face_embedder` was not imported yet.
        VersionNotFound: No alias `champion` stands on a version of it.
    """
    finder = open_finder(Weights.of(settings), threads=threads)
    options = replace(RuntimeOptions.of(settings), threads=threads)
    network = load_version(store, FACE_MODEL, max_batch_size=_BATCH, options=options)
    return FaceAnalyser(finder, partial(network.run, "embed"), network.version)

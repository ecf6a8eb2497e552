"""From a picture to its faces and from faces to embeddings: the one door to all of this package."""

from typing import Self

from contracts.messages import Pixels, Vector
from contracts.settings import Settings
from models.faces.found import FoundFace
from models.store import Store


class FaceAnalyser:
    """Finds, measures and embeds faces. Not safe among threads: each keeps its own.

    Attributes:
        version: Of `face_embedder` in the store, whose embeddings `embed` gives.
    """

    version: int

    def find(self, picture: Pixels, most: int = 32) -> list[FoundFace]:
        """The faces of a picture, the largest first.

        Args:
            picture: RGB uint8 (height, width, 3), upright, of any size; faces are looked for at
                `contracts.faces.LONGEST_SIDE` pixels, and told in pixels of this picture.
            most: Only so many.
        """
        raise NotImplementedError

    def track(self, picture: Pixels, previous: FoundFace | None) -> FoundFace | None:
        """The face of the next frame of a video: where it was, or else the largest; None if none.

        Args:
            picture: As for `find`.
            previous: The face of the frame before, in a picture of the same size; None looks
                everywhere.
        """
        raise NotImplementedError

    def embed(self, chips: Pixels) -> Vector:
        """One embedding a face, float32 (n, 128), each of length 1.

        Args:
            chips: As `FoundFace.chip`, uint8 (n, 150, 150, 3); any n, 0 too.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Let go of the networks."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


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
    raise NotImplementedError

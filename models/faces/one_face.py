"""Whether an image shows one face, which requests about a single person need."""

from collections.abc import Sequence

from contracts.errors import ManyFaces, NoFace
from contracts.faces.faces import MIN_AREA_RATIO, Face


def check_one_face(faces: Sequence[Face], total: int) -> None:
    """Check that an image shows one face: the first, if it is clearly larger than the others.

    Args:
        faces: Largest first.
        total: Number of all faces in the image.

    Raises:
        NoFace: There is no face.
        ManyFaces: There are several, and none is clearly larger than the others.
    """
    if not faces:
        raise NoFace("No face was found. Send an image of one face, seen from the front.")
    if len(faces) > 1:
        first, second = (face.box.width * face.box.height for face in faces[:2])
        if first < MIN_AREA_RATIO * second:
            raise ManyFaces(f"{total} faces were found. Send an image of one face, or come closer.")

"""Faces in pictures that were sent: decoded here, found and embedded by a worker.

The picture travels reduced; what comes back is told in pixels of the picture that was sent.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from contracts.errors import (
    InternalError,
    LowQualityFace,
    ManyFaces,
    ModelNotReady,
    NoFace,
    OpsinError,
    VersionNotFound,
)
from contracts.faces.faces import (
    DOMINATES,
    FACE_MODEL,
    LONGEST_SIDE,
    Box,
    Face,
    FacesAsk,
    FacesNote,
    Point,
)
from contracts.faces.subjects import LENGTH, embedder_of
from contracts.queue.messages import Reply, Vector
from models.images.decode import Picture, reduced
from service.dependencies import Services
from service.http.deadlines import Deadline

_UNTIL_PROMOTED_SECONDS = 60
_HELP = {
    "too_small": "come closer",
    "too_dark": "find more light",
    "too_bright": "find less light",
    "blurred": "hold still",
    "extreme_pose": "look at the camera",
    "off_frame": "keep the whole face in the picture",
    "occluded": "uncover the face",
}


@dataclass(frozen=True, slots=True)
class Found:
    """What is in one picture.

    Attributes:
        faces: The largest first, in pixels of the picture that was sent.
        vectors: Their embeddings, (n, 128) float32; (0, 128) where none were asked for.
        total: Faces found, those that were not asked for too.
        embedder: What made the embeddings.
        width: Of the picture, upright.
        height: Likewise.
    """

    faces: tuple[Face, ...]
    vectors: Vector
    total: int
    embedder: str
    width: int
    height: int


def current_embedder(services: Services) -> tuple[int, str]:
    """The version of the embedder that answers now, and what its templates are called.

    Raises:
        OpsinError: No worker holds it; says what to do.
    """
    try:
        _, version = services.presence.choose(FACE_MODEL, None, "faces")
    except VersionNotFound as error:
        # Nobody who sends a face has asked for a version: it is the operator who has to act.
        raise ModelNotReady(
            f"No version of '{FACE_MODEL}' is champion, so faces cannot be told apart. "
            f"`opsin models promote {FACE_MODEL} VERSION` makes one so.",
            retry_after=_UNTIL_PROMOTED_SECONDS,
        ) from error
    return version, embedder_of(version)


def require_open(services: Services) -> tuple[int, str]:
    """Refuse early: pictures that nobody would look at need not be read.

    Returns:
        As `current_embedder`.

    Raises:
        OpsinError: No worker holds the embedder, or its queue is full.
    """
    version, embedder = current_embedder(services)
    services.dispatch.require_room(FACE_MODEL, version, "faces")
    return version, embedder


async def find(
    services: Services, images: Sequence[bytes], ask: FacesAsk, deadline: Deadline
) -> list[Found]:
    """The faces of each picture.

    Args:
        services: What does the work.
        images: Files, as they were sent.
        ask: Whether the embeddings are wanted, and of how many.
        deadline: When all must be there.

    Raises:
        OpsinError: One of them cannot be read, or no worker answers.
    """
    version, embedder = require_open(services)
    pictures = [await _decoded(services, image, deadline) for image in images]
    replies = await services.dispatch.run(
        FACE_MODEL,
        version,
        "faces",
        [picture.pixels for picture in pictures],
        deadline=deadline.at,
        note=ask.pack(),
    )
    return [
        _found(picture, reply, embedder, embedded=ask.embed)
        for picture, reply in zip(pictures, replies, strict=True)
    ]


def the_face(found: Found) -> int:
    """The index of the one face that a picture is of.

    Raises:
        NoFace: There is none.
        ManyFaces: There are several, and none clearly before the others.
    """
    if not found.faces:
        raise NoFace("No face was found. Send a picture of one face, seen from the front.")
    if len(found.faces) > 1:
        first, second = (one.box.width * one.box.height for one in found.faces[:2])
        if first < DOMINATES * second:
            raise ManyFaces(
                f"{found.total} faces were found. Send a picture of one, or come closer."
            )
    return 0


def require_clear(face: Face) -> None:
    """Refuse a face that cannot be told well enough.

    Raises:
        LowQualityFace: It names the reasons, and what helps.
    """
    if face.quality.acceptable:
        return
    why = ", ".join(f"{reason} ({_HELP[reason]})" for reason in face.quality.reasons)
    raise LowQualityFace(f"The face cannot be told well enough: {why}.")


async def _decoded(services: Services, image: bytes, deadline: Deadline) -> Picture:
    work = partial(
        reduced,
        image,
        longest_side=LONGEST_SIDE,
        max_pixels=services.settings.max_image_pixels,
    )
    return await services.decoder.run(work, deadline_seconds=deadline.remaining)


def _found(picture: Picture, reply: Reply | OpsinError, embedder: str, *, embedded: bool) -> Found:
    if isinstance(reply, OpsinError):
        raise reply
    try:
        note = FacesNote.model_validate_json(reply.note)
        vector = np.empty(0, np.float32) if reply.vector is None else reply.vector
        vectors = vector.reshape(len(note.faces) if embedded else 0, LENGTH)
    except ValueError as error:
        raise InternalError("The worker gave no readable answer. Send it again.") from error
    height, width, _ = picture.pixels.shape
    across, down = picture.width / width, picture.height / height
    return Found(
        faces=tuple(_scaled(face, across, down) for face in note.faces),
        vectors=vectors,
        total=note.total,
        embedder=embedder,
        width=picture.width,
        height=picture.height,
    )


def _scaled(face: Face, across: float, down: float) -> Face:
    box = face.box
    return face.model_copy(
        update={
            "box": Box(
                x=round(box.x * across, 2),
                y=round(box.y * down, 2),
                width=max(0.01, round(box.width * across, 2)),
                height=max(0.01, round(box.height * down, 2)),
            ),
            "landmarks": {
                name: Point(x=round(at.x * across, 2), y=round(at.y * down, 2))
                for name, at in face.landmarks.items()
            },
        }
    )

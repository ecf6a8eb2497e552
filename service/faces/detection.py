"""Detects faces in uploaded images, which are decoded here and analyzed by a worker.

Images travel reduced; results are in pixels of the uploaded image.
"""

import json
from base64 import b64decode
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from contracts.errors import (
    InternalError,
    LowQualityFace,
    ModelNotReady,
    OpsinError,
    VersionNotFound,
)
from contracts.faces.faces import (
    FACE_MODEL,
    LONGEST_SIDE,
    Face,
    FacesReply,
    FacesRequest,
)
from contracts.faces.subjects import EMBEDDING_SIZE, embedder_of
from contracts.jobs import Job
from contracts.queue.messages import Reply, Vector
from contracts.queue.redis_keys import QueueName
from models.faces.detection.request import IMAGE, DetectionJobRequest
from models.faces.detection.scaling import in_original
from models.faces.one_face import check_one_face
from models.images.decode import DecodedImage, decode_reduced
from service.dependencies import Services
from service.http.deadlines import Deadline
from service.http.uploads import Upload, request_fingerprint
from service.inference.decoder import decode_image
from service.threads import run_in_threadpool

_UNTIL_PROMOTED_SECONDS = 60
_ADVICE = {
    "too_small": "come closer",
    "too_dark": "find more light",
    "too_bright": "find less light",
    "blurred": "hold still",
    "extreme_pose": "look at the camera",
    "off_frame": "keep the whole face in the image",
    "occluded": "uncover the face",
}


@dataclass(frozen=True, slots=True)
class Detection:
    """The faces in one image.

    Attributes:
        faces: Largest first, in pixels of the uploaded image.
        vectors: Their embeddings, (n, 128) float32; (0, 128) if they were not requested.
        total: Number of faces found, including those beyond the requested maximum.
        embedder: The embedder that computed the embeddings.
        width: Width of the uploaded image, upright.
        height: Height of the uploaded image, upright.
        portrait: A PNG of the largest face, if it was requested and there is one.
    """

    faces: tuple[Face, ...]
    vectors: Vector
    total: int
    embedder: str
    width: int
    height: int
    portrait: bytes | None = None


def current_embedder(services: Services) -> tuple[int, str]:
    """Version and name of the embedder that is served now.

    Raises:
        OpsinError: No worker has loaded it; says what to do.
    """
    try:
        _, version = services.workers.choose(FACE_MODEL, None, "faces")
    except VersionNotFound as error:
        # The client did not ask for a version, so this is not its fault but the operator's.
        raise ModelNotReady(
            f"No version of '{FACE_MODEL}' is champion, so faces cannot be recognized. "
            f"`opsin models promote {FACE_MODEL} VERSION` makes one so.",
            retry_after=_UNTIL_PROMOTED_SECONDS,
        ) from error
    return version, embedder_of(version)


def require_available(services: Services) -> tuple[int, str]:
    """Refuse a request before its images are read.

    Returns:
        As `current_embedder`.

    Raises:
        OpsinError: No worker has loaded the embedder, or its queue is full.
    """
    version, embedder = current_embedder(services)
    services.dispatcher.require_room(QueueName(FACE_MODEL, version, "faces"))
    return version, embedder


async def detect_faces(
    services: Services, images: Sequence[bytes], request: FacesRequest, deadline: Deadline
) -> list[Detection]:
    """Detect the faces in each image file.

    Raises:
        OpsinError: One of the images cannot be decoded, or no worker answers.
    """
    version, embedder = require_available(services)
    decoded = [await _decode(services, image, deadline) for image in images]
    replies = await services.dispatcher.run(
        QueueName(FACE_MODEL, version, "faces"),
        [image.pixels for image in decoded],
        deadline=deadline.at,
        note=request.pack(),
    )
    return [
        _detection(image, reply, embedder, embedded=request.embed)
        for image, reply in zip(decoded, replies, strict=True)
    ]


def main_face_index(detection: Detection) -> int:
    """The index of the one face that an image shows.

    Raises:
        NoFace: There is no face.
        ManyFaces: There are several, and none is clearly larger than the others.
    """
    check_one_face(detection.faces, detection.total)
    return 0


def require_acceptable(face: Face) -> None:
    """Refuse a face that is not clear enough.

    Raises:
        LowQualityFace: It names the reasons and what to do.
    """
    if face.quality.acceptable:
        return
    reasons = ", ".join(f"{reason} ({_ADVICE[reason]})" for reason in face.quality.reasons)
    raise LowQualityFace(f"The face is not clear enough: {reasons}.")


async def submit_detection(
    services: Services,
    upload: Upload,
    max_faces: int,
    deadline: Deadline,
    *,
    key: str | None,
    client: str | None,
) -> Job:
    """A job that will detect the faces in an image. It is decoded, and refused, before that.

    Args:
        key: The client's `Idempotency-Key`, if it sent one.
        client: Whose job it is, as for `JobQueue.submit`.

    Raises:
        OpsinError: The image cannot be decoded, or the job is not accepted.
    """
    if isinstance(upload.data, OpsinError):
        raise upload.data
    await services.job_queue.require_room_unread("face_detection", key, client)
    await _decode(services, upload.data, deadline)
    request = DetectionJobRequest(limit=max_faces).model_dump(mode="json")
    params = json.dumps(request, sort_keys=True)
    digest = await run_in_threadpool(request_fingerprint, params, [upload]) if key else ""
    return await services.job_queue.submit_work(
        "face_detection",
        request,
        inputs={IMAGE: upload.data},
        idempotency=(key, digest) if key else None,
        client=client,
    )


async def _decode(services: Services, image: bytes, deadline: Deadline) -> DecodedImage:
    work = partial(
        decode_reduced,
        image,
        longest_side=LONGEST_SIDE,
        max_pixels=services.settings.max_image_pixels,
    )
    return await decode_image(services.decoder, work, deadline=deadline)


def _detection(
    image: DecodedImage, reply: Reply | OpsinError, embedder: str, *, embedded: bool
) -> Detection:
    if isinstance(reply, OpsinError):
        raise reply
    try:
        note = FacesReply.model_validate_json(reply.note)
        vector = np.empty(0, np.float32) if reply.vector is None else reply.vector
        vectors = vector.reshape(len(note.faces) if embedded else 0, EMBEDDING_SIZE)
    except ValueError as error:
        raise InternalError("The worker's answer is not readable. Send the image again.") from error
    return Detection(
        faces=in_original(note.faces, image),
        vectors=vectors,
        total=note.total,
        embedder=embedder,
        width=image.width,
        height=image.height,
        portrait=None if note.portrait is None else b64decode(note.portrait),
    )

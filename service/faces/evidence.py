"""The evidence of a login, whichever of the two ways it was sent."""

from dataclasses import dataclass, field

import numpy as np

from contracts.errors import InternalError, OpsinError, ValidationFailed
from contracts.faces.clips import ClipAsk, ClipNote, as_pixels
from contracts.faces.faces import FACE_MODEL, FacesAsk, QualityReason
from contracts.faces.subjects import LENGTH, embedder_of
from contracts.queue.messages import Reply, Vector
from models.faces.liveness.video_formats import sniff_video
from service.dependencies import Services
from service.faces.challenges import Taken
from service.faces.detection import find, the_face
from service.faces.form import Form
from service.http.deadlines import Deadline


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was shown of a person.

    Attributes:
        vectors: Embeddings of the one face, (n, 128) float32, each of length 1; a match has to
            hold for their mean.
        embedder: What made them.
        live: Whether a challenge was answered before the camera.
        quality_reasons: Why the face cannot be told well enough; none: it can.
        refused: Why the evidence counts for nothing, be the face whose it may, e.g. a challenge
            that was not done. It counts as a failure.
    """

    vectors: Vector
    embedder: str
    live: bool = False
    quality_reasons: tuple[QualityReason, ...] = ()
    refused: str | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """Who wants to be let in as whom.

    Attributes:
        subject_id: As whom; there is such a subject.
        device: The device's id, or else the client's address.
        content: What was sent, for the audit's digest.
        request_id: For the audit.
    """

    subject_id: str
    device: str
    content: bytes = field(repr=False)
    request_id: str | None = None


async def evidence_of(services: Services, form: Form, claim: Claim, deadline: Deadline) -> Evidence:
    """What a form shows of a person.

    Raises:
        OpsinError: It cannot be read or judged; that is no failure of the person.
    """
    videos = form.files("video")
    if videos:
        return await _clip_evidence(services, form, claim, videos[0], deadline)
    if form.text("challenge_id") or form.text("nonce"):
        raise ValidationFailed("A challenge is answered by a 'video', not by an 'image'.")
    return await image_evidence(services, form.files("image")[0], deadline)


async def image_evidence(services: Services, image: bytes, deadline: Deadline) -> Evidence:
    """The evidence of one picture.

    Raises:
        NoFace: There is none in it.
        ManyFaces: There are several, none clearly before the others.
        OpsinError: The picture cannot be read, or no worker answers.
    """
    (found,) = await find(services, [image], FacesAsk(embed=True, most=2), deadline)
    at = the_face(found)
    quality = found.faces[at].quality
    reasons = () if quality.acceptable else quality.reasons
    return Evidence(found.vectors[at : at + 1], found.embedder, quality_reasons=reasons)


async def _clip_evidence(
    services: Services, form: Form, claim: Claim, video: bytes, deadline: Deadline
) -> Evidence:
    """The evidence of a clip; its challenge is used up before anything else.

    Raises:
        Conflict: The challenge is not to be had.
        InvalidVideo: The clip cannot be read.
        OpsinError: No worker answers.
    """
    challenge = await _challenge(services, form, claim)
    sniff_video(video)
    _, version = services.presence.choose(FACE_MODEL, None, "clip")
    ask = ClipAsk(
        size=len(video),
        actions=challenge.actions,
        subject_id=claim.subject_id,
        challenge_id=challenge.id,
    )
    (reply,) = await services.dispatch.run(
        FACE_MODEL,
        version,
        "clip",
        [as_pixels(video)],
        deadline=deadline.at,
        note=ask.pack(),
    )
    return _evidence(reply, version)


async def _challenge(services: Services, form: Form, claim: Claim) -> Taken:
    challenge_id, nonce = form.text("challenge_id"), form.text("nonce")
    if challenge_id is None or nonce is None:
        raise ValidationFailed(
            "Send challenge_id and nonce with a 'video': ask for them with POST "
            "/v1/faces/challenges before it is recorded."
        )
    return await services.faces.challenges.take(
        challenge_id,
        nonce,
        purpose="login",
        subject_id=claim.subject_id,
        device_id=form.text("device_id"),
    )


def _evidence(reply: Reply | OpsinError, version: int) -> Evidence:
    if isinstance(reply, OpsinError):
        raise reply
    try:
        note = ClipNote.model_validate_json(reply.note)
        vectors = (np.empty(0, np.float32) if reply.vector is None else reply.vector).reshape(
            -1, LENGTH
        )
    except ValueError as error:
        raise InternalError("The worker gave no readable answer. Send it again.") from error
    embedder = embedder_of(version)
    if not note.liveness.live:
        # The first fault is the gravest; a client reads it by its code.
        return Evidence(vectors[:0], embedder, refused=note.liveness.faults[0].code)
    if not len(vectors):
        reasons = note.face.quality.reasons if note.face else ()
        return Evidence(vectors, embedder, live=True, quality_reasons=reasons or ("blurred",))
    return Evidence(vectors, embedder, live=True)

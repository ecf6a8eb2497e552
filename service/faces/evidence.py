"""The evidence of a login: the embeddings that an image or a clip of the person gives."""

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

import numpy as np

from contracts.errors import InternalError, OpsinError, ValidationFailed
from contracts.faces.clips import ClipReply, ClipRequest, pack_video
from contracts.faces.enrollments import AnsweredChallenge
from contracts.faces.faces import FACE_MODEL, FacesRequest, QualityReason
from contracts.faces.subjects import EMBEDDING_SIZE, embedder_of
from contracts.queue.messages import Reply, Vector
from contracts.queue.redis_keys import QueueName
from models.faces.liveness.video_formats import detect_video_format
from service.dependencies import Services
from service.faces.detection import detect_faces, main_face_index
from service.faces.device_keys import is_signed
from service.faces.locks.lockout import Caller
from service.http.deadlines import Deadline
from service.http.multipart import Form
from service.inference.fair_pool import CALLER, part_of
from service.threads import run_in_threadpool


@dataclass(frozen=True, slots=True)
class LoginEvidence:
    """What an image or a clip shows of a person.

    Attributes:
        vectors: Embeddings of the one face, (n, 128) float32, each of unit length. Their mean has
            to match.
        embedder: The embedder that computed them.
        live: Whether a challenge was answered in front of the camera.
        quality_reasons: Why the face is not clear enough; empty if it is.
        rejection: Why the evidence is worthless whatever the face, e.g. because an action of the
            challenge is missing; counts as a failure.
    """

    vectors: Vector
    embedder: str
    live: bool = False
    quality_reasons: tuple[QualityReason, ...] = ()
    rejection: str | None = None


@dataclass(frozen=True, slots=True)
class LoginClaim:
    """Who wants to log in.

    Attributes:
        subject_id: An existing subject.
        caller: What failures are counted by.
        content: The uploaded file, for its hash in the audit log.
        is_video: Whether that is a clip, otherwise an image.
        device_id: As the client names its device.
        signature: Of the challenge's nonce, by that device.
        nonce: Of the challenge that is answered.
        address: The client's address, for the audit log.
        request_id: For the audit log.
    """

    subject_id: str
    caller: Caller
    content: bytes = field(repr=False)
    is_video: bool = False
    device_id: str | None = None
    signature: bytes | None = field(default=None, repr=False)
    nonce: str = field(default="", repr=False)
    address: str = ""
    request_id: str | None = None


async def gather_evidence(
    services: Services, form: Form, claim: LoginClaim, deadline: Deadline
) -> LoginEvidence:
    """Compute the evidence from the form of a login.

    Raises:
        OpsinError: The upload cannot be analyzed; that does not count as a failure.
    """
    if claim.is_video:
        return await _clip_evidence(services, form, claim, deadline)
    if claim.signature is not None:
        async with _consumed_challenge(services, form, claim):
            if not await _is_signed(services, claim):
                return _wrong_signature()
            return await _image_evidence(services, claim.content, deadline)
    if form.text("challenge_id") or form.text("nonce"):
        raise ValidationFailed(
            "A challenge is answered by a 'video', not by an 'image', unless a registered device "
            "has signed the nonce: send its 'signature'."
        )
    return await _image_evidence(services, claim.content, deadline)


async def _is_signed(services: Services, claim: LoginClaim) -> bool:
    """Whether the claim has no signature, or one by the subject's device; an unknown one has not.

    Raises:
        Unavailable: The database does not answer.
    """
    if claim.signature is None:
        return True
    devices, device_id = services.faces.repositories.devices, claim.device_id or ""
    device = await run_in_threadpool(devices.find, claim.subject_id, device_id)
    if device is None or not is_signed(device.public_key, claim.signature, claim.nonce):
        return False
    await run_in_threadpool(devices.record_use, claim.subject_id, device_id)
    return True


def _wrong_signature() -> LoginEvidence:
    nothing = np.empty((0, EMBEDDING_SIZE), np.float32)
    return LoginEvidence(nothing, "", rejection="wrong_signature")


async def _image_evidence(services: Services, image: bytes, deadline: Deadline) -> LoginEvidence:
    """Compute the evidence of an image.

    Raises:
        NoFace: It shows no face.
        ManyFaces: It shows several, none clearly larger than the others.
        OpsinError: It cannot be decoded, or no worker answers.
    """
    request = FacesRequest(embed=True, max_faces=2)
    (detection,) = await detect_faces(services, [image], request, deadline)
    index = main_face_index(detection)
    quality = detection.faces[index].quality
    reasons = () if quality.acceptable else quality.reasons
    return LoginEvidence(
        detection.vectors[index : index + 1], detection.embedder, quality_reasons=reasons
    )


async def _clip_evidence(
    services: Services, form: Form, claim: LoginClaim, deadline: Deadline
) -> LoginEvidence:
    """Compute the evidence of a clip, after its challenge has been used up.

    If no worker could judge the clip, the challenge is valid again.

    Raises:
        Conflict: The challenge cannot be used.
        InvalidVideo: The clip cannot be read.
        OpsinError: No worker answers.
    """
    async with _consumed_challenge(services, form, claim) as challenge:
        if not await _is_signed(services, claim):
            return _wrong_signature()
        video = claim.content
        detect_video_format(video)
        _, version = services.workers.choose(FACE_MODEL, None, "clip")
        request = ClipRequest(
            size=len(video),
            actions=challenge.actions,
            subject_id=claim.subject_id,
            challenge_id=challenge.id,
        )
        _take_turns_by_subject(claim.subject_id)
        (reply,) = await services.dispatcher.run(
            QueueName(FACE_MODEL, version, "clip"),
            [pack_video(video)],
            deadline=deadline.at,
            note=request.pack(),
        )
        return _evidence_of(reply, version)


def _take_turns_by_subject(subject_id: str) -> None:
    """Let the clips of a subject wait for each other before those of others of the app.

    One key stands for all users of an app. A clip can take a worker fifteen seconds, and a person
    may answer ten challenges in a minute and a half, for themselves.
    """
    caller = CALLER.get(None)
    if caller is not None:
        CALLER.set(caller._replace(client=part_of(caller.client, subject_id)))


def _consumed_challenge(
    services: Services, form: Form, claim: LoginClaim
) -> AbstractAsyncContextManager[AnsweredChallenge]:
    challenge_id, nonce = form.text("challenge_id"), form.text("nonce")
    if challenge_id is None or nonce is None:
        raise ValidationFailed(
            "A 'video' needs a challenge: request one before recording it, with POST "
            "/v1/faces/challenges or `opsin faces challenge`, and send its challenge_id and nonce."
        )
    return services.faces.challenges.consumed(
        challenge_id,
        nonce,
        purpose="login",
        subject_id=claim.subject_id,
        device_id=form.opaque_id("device_id"),
    )


def _evidence_of(reply: Reply | OpsinError, version: int) -> LoginEvidence:
    if isinstance(reply, OpsinError):
        raise reply
    try:
        note = ClipReply.model_validate_json(reply.note)
        vector = np.empty(0, np.float32) if reply.vector is None else reply.vector
        vectors = vector.reshape(-1, EMBEDDING_SIZE)
    except ValueError as error:
        raise InternalError("The worker's answer is not readable. Send the video again.") from error
    embedder = embedder_of(version)
    if not note.liveness.live:
        # The faults are sorted, the gravest first; clients handle it by its code.
        return LoginEvidence(vectors[:0], embedder, rejection=note.liveness.faults[0].code)
    if not len(vectors):
        reasons = note.face.quality.reasons if note.face else ()
        return LoginEvidence(vectors, embedder, live=True, quality_reasons=reasons or ("blurred",))
    return LoginEvidence(vectors, embedder, live=True)

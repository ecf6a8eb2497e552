"""Accepts enrollments: reads the form, consumes the challenge and creates the job."""

import asyncio
import hashlib
import json
import time
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial

from fastapi import Request

from contracts.errors import Conflict, ValidationFailed
from contracts.faces.enrollments import (
    MAX_IMAGES,
    VIDEO,
    AnsweredChallenge,
    EnrollmentRequest,
    image_name,
)
from contracts.faces.subjects import MAX_TEMPLATES
from contracts.jobs import Job
from contracts.settings import Settings
from database.faces.enrollments import failed_by_service
from database.faces.standings import require_consent
from models.faces.liveness.video_formats import detect_video_format
from service.auth.principal import quota_key
from service.dependencies import Services
from service.faces.challenges import JobAnswer
from service.faces.context import FaceServices
from service.faces.requirements import require_analyzer
from service.faces.subjects import embedder_in_force
from service.http.deadlines import Deadline
from service.http.multipart import TEXT, FieldSpec, Form, read_form
from service.threads import run_in_threadpool

_FIRST_SECONDS = 3.0
_POLL_SECONDS = 0.2


async def enroll(
    request: Request, subject_id: str, key: str | None, deadline: Deadline, services: Services
) -> Job:
    """Create the job of an enrollment.

    Args:
        request: Its body has not been read.
        key: The client's `Idempotency-Key`, if it sent one.
        deadline: Limits the upload.

    Raises:
        SubjectNotFound: There is no such subject.
        ModelNotReady: The face embedder or the weights that find faces are missing, so the job
            could only fail.
        OpsinError: See the route. No job was created.
        ClientDisconnect: The client hung up.
    """
    await run_in_threadpool(_require_enrollable, services.faces, subject_id)
    await require_analyzer(services)
    client = quota_key(request.scope)
    await services.job_queue.require_room_unread("enrollment", key, client)
    async with deadline.enforced():
        form = await read_form(request, _fields(services.settings))
    inputs = _inputs(form)
    is_needed = key is not None or form.text("challenge_id") is not None
    digest = await run_in_threadpool(_digest, services, form, subject_id) if is_needed else ""
    idempotency = (key, digest) if key else None
    # Before the challenge is consumed: a repeated request has used up its challenge already.
    if idempotency and (job := await services.job_queue.earlier("enrollment", *idempotency)):
        return job
    await _require_room(services, subject_id)
    try:
        async with _consumed_challenge(services, form, subject_id, digest) as challenge:
            if VIDEO in inputs:
                detect_video_format(inputs[VIDEO])
            enrollment = EnrollmentRequest(
                subject_id=subject_id,
                images=0 if VIDEO in inputs else len(inputs),
                challenge=challenge,
            )
            return await services.job_queue.submit_work(
                "enrollment",
                enrollment.model_dump(mode="json"),
                inputs=inputs,
                idempotency=idempotency,
                client=client,
            )
    except Conflict:
        # An equal request may have used up the challenge, and still be storing its video.
        if idempotency and (job := await _job_of_first(services, idempotency)):
            return job
        raise


async def _job_of_first(services: Services, idempotency: tuple[str, str]) -> Job | None:
    """The job of an equal request that has not been answered yet; waits for it a little."""
    until = time.monotonic() + _FIRST_SECONDS
    while True:
        job = await services.job_queue.earlier("enrollment", *idempotency)
        if job is not None or time.monotonic() > until:
            return job
        await asyncio.sleep(_POLL_SECONDS)


def _require_enrollable(faces: FaceServices, subject_id: str) -> None:
    """Check what would make the job fail whatever is sent.

    Raises:
        SubjectNotFound: There is no such subject.
        Conflict: It has not consented.
        Unavailable: Its key is missing.
    """
    standing = faces.repositories.standings.get(subject_id)
    require_consent(standing, faces.repositories.policy.get())
    faces.subjects.require_readable(subject_id)


async def _require_room(services: Services, subject_id: str) -> None:
    """Refuse a subject whose templates are complete, which the job would find out as well.

    Raises:
        Conflict: It has the maximum number of templates.
    """
    embedder = await embedder_in_force(services)
    subject = await run_in_threadpool(services.faces.subjects.get, subject_id, embedder=embedder)
    if embedder is not None and subject.templates.current >= MAX_TEMPLATES:
        raise Conflict(
            f"The subject has {MAX_TEMPLATES} templates, which is the maximum. Delete the subject "
            "and enroll it again."
        )


def _fields(settings: Settings) -> dict[str, FieldSpec]:
    return {
        "image": FieldSpec(settings.max_image_bytes, min(MAX_IMAGES, settings.max_images)),
        VIDEO: FieldSpec(settings.max_video_bytes),
        "challenge_id": TEXT,
        "nonce": TEXT,
        "device_id": TEXT,
    }


def _inputs(form: Form) -> dict[str, bytes]:
    images, videos = form.files("image"), form.files(VIDEO)
    if bool(images) == bool(videos):
        raise ValidationFailed("Send either a 'video' or one or more 'image'.")
    if videos:
        return {VIDEO: videos[0]}
    return {image_name(index): image for index, image in enumerate(images)}


def _consumed_challenge(
    services: Services, form: Form, subject_id: str, digest: str
) -> AbstractAsyncContextManager[AnsweredChallenge | None]:
    """Use up the challenge that the video answers, whether or not the enrollment succeeds.

    If no job could be created, or the job fails through the service's fault, it is valid again.
    """
    challenge_id, nonce = form.text("challenge_id"), form.text("nonce")
    if challenge_id is None and nonce is None:
        return nullcontext()
    if challenge_id is None or nonce is None or not form.files(VIDEO):
        raise ValidationFailed("A challenge is answered by challenge_id, nonce and a 'video'.")
    return services.faces.challenges.consumed(
        challenge_id,
        nonce,
        purpose="enroll",
        subject_id=subject_id,
        device_id=form.opaque_id("device_id"),
        job=JobAnswer(digest, partial(_has_failed, services.faces, subject_id)),
    )


async def _has_failed(faces: FaceServices, subject_id: str, challenge_id: str) -> bool:
    return await run_in_threadpool(failed_by_service, faces.engine, subject_id, challenge_id)


def _digest(services: Services, form: Form, subject_id: str) -> str:
    """Equal for equal requests. Keyed, so that the digest does not reveal which image was sent."""
    digest = hashlib.sha256(json.dumps([subject_id, sorted(form.parts)]).encode())
    for name in sorted(form.parts):
        for part in form.parts[name]:
            digest.update(json.dumps([name, part.size]).encode())
            digest.update(part.data)
    return services.faces.keyed_hash.hexdigest(digest.digest())

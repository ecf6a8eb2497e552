"""An enrollment on its way to the job that does it: the form read, the challenge used up."""

import hashlib
import json

from fastapi import Request
from fastapi.concurrency import run_in_threadpool

from contracts.errors import ValidationFailed
from contracts.faces.enrollments import (
    MOST_IMAGES,
    VIDEO,
    ChallengeTaken,
    EnrollmentRequest,
    image_name,
)
from contracts.jobs import Job
from contracts.settings import Settings
from service.dependencies import Services
from service.faces.form import TEXT, Allowed, Form, read_form
from service.http.deadlines import Deadline


async def enroll(
    request: Request, subject_id: str, key: str | None, deadline: Deadline, services: Services
) -> Job:
    """Queue the enrollment that a request describes.

    Args:
        request: The request, its body unread.
        subject_id: Who is enrolled.
        key: The client's `Idempotency-Key`, if it sent one.
        deadline: Until when the upload may take.
        services: What does the work.

    Raises:
        SubjectNotFound: There is no such subject.
        OpsinError: It cannot be done, as the route tells. Nothing was queued.
        ClientDisconnect: The client hung up.
    """
    await run_in_threadpool(services.faces.kept.subjects.get, subject_id)
    async with deadline.enforced():
        form = await read_form(request, _fields(services.settings))
    inputs = _inputs(form)
    digest = await run_in_threadpool(_digest, services, form, subject_id) if key else ""
    idempotency = (key, digest) if key else None
    # First: a request that is sent again finds its challenge used up, by itself.
    if idempotency and (job := await services.queue.earlier("enrollment", *idempotency)):
        return job
    challenge = await _challenge(services, form, subject_id)
    asked = EnrollmentRequest(
        subject_id=subject_id,
        images=0 if VIDEO in inputs else len(inputs),
        challenge=challenge,
    )
    return await services.queue.submit_work(
        "enrollment",
        asked.model_dump(mode="json"),
        inputs=inputs,
        idempotency=idempotency,
    )


def _fields(settings: Settings) -> dict[str, Allowed]:
    return {
        "image": Allowed(settings.max_image_bytes, min(MOST_IMAGES, settings.max_images)),
        VIDEO: Allowed(settings.max_video_bytes),
        "challenge_id": TEXT,
        "nonce": TEXT,
        "device_id": TEXT,
    }


def _inputs(form: Form) -> dict[str, bytes]:
    images, videos = form.files("image"), form.files(VIDEO)
    if bool(images) == bool(videos):
        raise ValidationFailed("Send a 'video', or one 'image' or several, and not both.")
    return {VIDEO: videos[0]} if videos else {image_name(at): one for at, one in enumerate(images)}


async def _challenge(services: Services, form: Form, subject_id: str) -> ChallengeTaken | None:
    """The challenge that the video answers; used up by this, whatever comes after."""
    challenge_id, nonce = form.text("challenge_id"), form.text("nonce")
    if challenge_id is None and nonce is None:
        return None
    if challenge_id is None or nonce is None or not form.files(VIDEO):
        raise ValidationFailed("A challenge is answered by challenge_id, nonce and a 'video'.")
    taken = await services.faces.challenges.take(
        challenge_id,
        nonce,
        purpose="enroll",
        subject_id=subject_id,
        device_id=form.text("device_id"),
    )
    return ChallengeTaken(id=taken.id, actions=taken.actions)


def _digest(services: Services, form: Form, subject_id: str) -> str:
    """Equal for equal requests. Keyed: what is kept of a picture must not tell which it was."""
    digest = hashlib.sha256(json.dumps([subject_id, sorted(form.parts)]).encode())
    for name in sorted(form.parts):
        for part in form.parts[name]:
            digest.update(json.dumps([name, len(part)]).encode())
            digest.update(part)
    return services.faces.kept.digests.of(digest.digest())

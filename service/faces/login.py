"""A login by face: a place among the few attempts, the evidence, the decision, the token.

Whatever the evidence is, a picture or a clip, it is judged here and in one way. Who adds a kind of
evidence makes an `Evidence` of it and hands it over; see `judge`.

From the form of a login to its answer.
"""

from collections.abc import Awaitable, Callable
from functools import partial

import numpy as np
from fastapi import Request
from fastapi.concurrency import run_in_threadpool

from contracts.errors import OpsinError, ValidationFailed
from contracts.faces.recognition import Login
from contracts.faces.subjects import Candidate, NewEvent, Threshold
from contracts.queue.messages import Vector
from contracts.settings import Settings
from service.dependencies import Services
from service.faces.evidence import Claim, Evidence, evidence_of
from service.faces.form import TEXT, Allowed, Form, read_form
from service.faces.recognition import Verdict, judged
from service.faces.subjects import require_subject
from service.http.deadlines import Deadline
from service.http.disconnect import while_connected

_NEAREST = 3


Gather = Callable[[], Awaitable[Evidence]]


async def log_in(services: Services, claim: Claim, gather: Gather) -> Login:
    """Judge a claim.

    Args:
        services: What does the work.
        claim: Who wants to be let in as whom.
        gather: Makes the evidence; called only if an attempt may be made.

    Raises:
        SubjectNotFound: There is no such subject any more.
        LockedOut: There were too many failures.
        OpsinError: The evidence cannot be had; that is no failure of the person.
    """
    desk = services.faces
    device = await run_in_threadpool(desk.kept.digests.of, claim.device.encode())
    try:
        attempt = await desk.lockout.begin(claim.subject_id, device)
    except OpsinError as error:
        await _record(services, claim, error.code, None)
        raise
    failed = False
    try:
        evidence = await gather()
        verdict = await judge(services, claim.subject_id, evidence)
        failed = verdict.is_failure
    except OpsinError as error:
        await _record(services, claim, error.code, None)
        raise
    finally:
        await desk.lockout.end(attempt, failed=failed)
    await _record(services, claim, verdict.decision, verdict.reason)
    return await _answer(services, claim, evidence, verdict)


async def judge(services: Services, subject_id: str, evidence: Evidence) -> Verdict:
    """Whether the evidence shows the subject.

    Raises:
        SubjectNotFound: There is none of that id any more.
        Unavailable: The database does not answer.
    """
    if evidence.refused is not None:
        return Verdict("no_match", evidence.refused)
    if evidence.quality_reasons:
        return Verdict("uncertain", "low_quality_face")
    threshold = await services.faces.threshold(evidence.embedder)
    return await run_in_threadpool(_compared, services, subject_id, evidence, threshold)


def mean_of(vectors: Vector) -> Vector:
    """The direction that all of them share, (128,) of length 1."""
    mean = vectors.mean(axis=0, dtype=np.float64)
    unit: Vector = (mean / max(float(np.linalg.norm(mean)), 1e-12)).astype(np.float32)
    return unit


def _compared(
    services: Services, subject_id: str, evidence: Evidence, threshold: Threshold
) -> Verdict:
    desk = services.faces
    templates = desk.kept.templates.of(subject_id, embedder=evidence.embedder)
    if not templates:
        return Verdict("no_match", "not_enrolled")
    vector = mean_of(evidence.vectors)
    similarity = max(float(one.vector @ vector) for one in templates)
    return judged(
        similarity,
        threshold,
        _others(
            desk.search.nearest(
                vector[None],
                embedder=evidence.embedder,
                above=threshold.similarity - threshold.margin,
                most=_NEAREST,
            )[0],
            subject_id,
        ),
    )


def _others(candidates: list[Candidate], subject_id: str) -> list[Candidate]:
    return [one for one in candidates if one.subject_id != subject_id]


async def _answer(services: Services, claim: Claim, evidence: Evidence, verdict: Verdict) -> Login:
    told = Login(
        decision=verdict.decision,
        reason=verdict.reason,
        quality_reasons=evidence.quality_reasons,
    )
    if verdict.decision != "match":
        return told
    token = await run_in_threadpool(
        services.faces.tokens.sign, claim.subject_id, live=evidence.live
    )
    return told.model_copy(update={"token": token.text, "expires_at": token.expires_at})


async def _record(services: Services, claim: Claim, outcome: str, reason: str | None) -> None:
    await services.faces.record(
        NewEvent(
            kind="login",
            outcome=outcome,
            reason=reason,
            subject_id=claim.subject_id,
            device=claim.device,
            content=claim.content,
            request_id=claim.request_id,
        )
    )


async def enter(request: Request, deadline: Deadline, services: Services) -> Login:
    """Judge the login that a request describes.

    Raises:
        OpsinError: As the route tells.
        ClientDisconnect: The client hung up.
    """
    async with deadline.enforced():
        # Nobody uploads a video to log in as somebody who is not there.
        heard = {"subject_id": partial(require_subject, services)}
        form = await read_form(request, _fields(services.settings), heard)
        claim = _claim(request, form)
        gather = partial(evidence_of, services, form, claim, deadline)
        return await while_connected(request, log_in(services, claim, gather))


def _fields(settings: Settings) -> dict[str, Allowed]:
    return {
        "subject_id": TEXT,
        "image": Allowed(settings.max_image_bytes),
        "video": Allowed(settings.max_video_bytes),
        "challenge_id": TEXT,
        "nonce": TEXT,
        "device_id": TEXT,
    }


def _claim(request: Request, form: Form) -> Claim:
    images, videos = form.files("image"), form.files("video")
    if bool(images) == bool(videos):
        raise ValidationFailed("Send an 'image' or a 'video', and not both.")
    subject_id = form.text("subject_id")
    if subject_id is None:
        raise ValidationFailed("Send subject_id: as whom to log in.")
    address = request.client.host if request.client else ""
    return Claim(
        subject_id=subject_id,
        device=form.text("device_id") or address,
        content=(images or videos)[0],
        request_id=request.state.request_id,
    )

"""Face login: reserves an attempt, gathers evidence, decides and issues a token."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import get_args

from fastapi import Request

from contracts.errors import LockedOut, OpsinError, ValidationFailed
from contracts.faces.consent import Policy
from contracts.faces.faces import Decision
from contracts.faces.recognition import Login
from contracts.faces.subjects import NewEvent, Threshold
from models.faces.embedding import mean_embedding
from service.dependencies import Services
from service.faces.decisions import Verdict, judge_similarity
from service.faces.device_keys import is_signed, read_signature
from service.faces.evidence import LoginClaim, LoginEvidence, gather_evidence
from service.faces.locks.attempts import attempt, caller_of
from service.faces.subjects import require_subject
from service.http.deadlines import Deadline
from service.http.disconnect import while_connected
from service.http.multipart import MAX_TEXT_BYTES, TEXT, FieldSpec, Form, read_form
from service.metrics.request_record import current_record
from service.threads import run_in_threadpool

_MAX_CANDIDATES = 3

GatherEvidence = Callable[[], Awaitable[LoginEvidence]]


async def login(request: Request, deadline: Deadline, services: Services) -> Login:
    """Read and judge a login.

    Raises:
        OpsinError: See the route.
        ClientDisconnect: The client hung up.
    """
    async with deadline.enforced():
        form = await read_form(request, _fields(services))
        claim = await _claim(services, request, form)
        gather = partial(gather_evidence, services, form, claim, deadline)
        return await while_connected(request, judge_login(services, claim, gather))


async def judge_login(services: Services, claim: LoginClaim, gather: GatherEvidence) -> Login:
    """Judge a claim.

    Args:
        gather: Computes the evidence; called only if the claim may make an attempt.

    Raises:
        SubjectNotFound: The subject no longer exists.
        LockedOut: There were too many failures.
        Conflict: The subject has not consented, or the challenge cannot be used.
        OpsinError: The evidence cannot be computed; that does not count as a failure.
    """
    faces = services.faces
    try:
        policy = await run_in_threadpool(faces.repositories.policy.get)
        require_factors(claim, policy)
        async with attempt(
            faces, claim.subject_id, claim.caller, policy, signed=claim.signature is not None
        ) as judgment:
            evidence = await gather()
            verdict = await judge_evidence(services, claim.subject_id, evidence)
            if verdict.decision == "match":
                await run_in_threadpool(_require_still_allowed, services, claim)
            judgment.verdict = verdict
    except OpsinError as error:
        await _record(services, claim, error.code, None)
        raise
    await _record(services, claim, verdict.decision, verdict.reason)
    return await _login_response(services, claim, evidence, verdict)


def require_factors(claim: LoginClaim, policy: Policy) -> None:
    """Refuse a login that lacks what the policy requires, before its challenge is used up.

    Raises:
        ValidationFailed: It lacks a signature or a clip.
    """
    if policy.device_key_required and claim.signature is None:
        raise ValidationFailed(
            "This service requires a registered device: send device_id, challenge_id, nonce and "
            "the signature of the nonce."
        )
    if policy.liveness_required and not claim.is_video:
        raise ValidationFailed(
            "This service requires a video that answers a challenge. Request one with POST "
            "/v1/faces/challenges."
        )


def _require_still_allowed(services: Services, claim: LoginClaim) -> None:
    """Check what may have been taken back while the face was judged: the policy and the device.

    A device that was removed may have been registered again with another key.

    Raises:
        ValidationFailed: The policy requires more by now.
        SubjectNotFound: The subject was erased.
        LockedOut: The key that has signed was removed.
    """
    repositories = services.faces.repositories
    require_factors(claim, repositories.policy.get())
    if claim.signature is None:
        return
    devices = repositories.devices.list(claim.subject_id)
    keys = [device.public_key for device in devices if device.device_id == claim.device_id]
    if not any(is_signed(key, claim.signature, claim.nonce) for key in keys):
        raise LockedOut("The device was removed. Log in with another factor.")


async def judge_evidence(services: Services, subject_id: str, evidence: LoginEvidence) -> Verdict:
    """Decide whether the evidence shows the subject.

    Raises:
        SubjectNotFound: The subject no longer exists.
        Unavailable: The database does not answer.
    """
    if evidence.rejection is not None:
        return Verdict("no_match", evidence.rejection)
    if evidence.quality_reasons:
        return Verdict("uncertain", "low_quality_face")
    threshold = await services.faces.effective_threshold(evidence.embedder)
    return await run_in_threadpool(_compare, services, subject_id, evidence, threshold)


def _compare(
    services: Services, subject_id: str, evidence: LoginEvidence, threshold: Threshold
) -> Verdict:
    faces = services.faces
    templates = faces.templates.of_subject(subject_id, embedder=evidence.embedder)
    if not templates:
        return Verdict("no_match", "not_enrolled")
    vector = mean_embedding(evidence.vectors)
    similarity = max(float(template.vector @ vector) for template in templates)
    (candidates,) = faces.search.nearest(
        vector[None],
        embedder=evidence.embedder,
        min_similarity=threshold.similarity - threshold.margin,
        limit=_MAX_CANDIDATES,
    )
    others = [candidate for candidate in candidates if candidate.subject_id != subject_id]
    return judge_similarity(similarity, threshold, others)


async def _login_response(
    services: Services, claim: LoginClaim, evidence: LoginEvidence, verdict: Verdict
) -> Login:
    response = Login(
        decision=verdict.decision,
        reason=verdict.reason,
        quality_reasons=evidence.quality_reasons,
    )
    if verdict.decision != "match":
        return response
    if evidence.live:
        await services.faces.challenges.passed(claim.subject_id, claim.caller.known_as)
    token = await run_in_threadpool(
        partial(
            services.faces.tokens.sign,
            claim.subject_id,
            live=evidence.live,
            signed=claim.signature is not None,
        )
    )
    return response.model_copy(update={"token": token.text, "expires_at": token.expires_at})


async def _record(services: Services, claim: LoginClaim, outcome: str, reason: str | None) -> None:
    is_decision = outcome in get_args(Decision)
    labels = (outcome, reason or "") if is_decision else ("error", outcome)
    current_record().count("face_logins_total", *labels)
    await services.faces.record(
        NewEvent(
            kind="login",
            outcome=outcome,
            reason=reason,
            subject_id=claim.subject_id,
            device=claim.device_id or claim.address,
            content=claim.content,
            request_id=claim.request_id,
        )
    )


def _fields(services: Services) -> dict[str, FieldSpec]:
    settings = services.settings
    # Checked before the video is uploaded.
    require = partial(require_subject, services)
    return {
        "subject_id": FieldSpec(MAX_TEXT_BYTES, on_complete=require),
        "image": FieldSpec(settings.max_image_bytes),
        "video": FieldSpec(settings.max_video_bytes),
        "challenge_id": TEXT,
        "nonce": TEXT,
        "device_id": TEXT,
        "signature": TEXT,
    }


async def _claim(services: Services, request: Request, form: Form) -> LoginClaim:
    images, videos = form.files("image"), form.files("video")
    if bool(images) == bool(videos):
        raise ValidationFailed("Send either an 'image' or a 'video'.")
    subject_id, device_id = form.text("subject_id"), form.opaque_id("device_id")
    if subject_id is None:
        raise ValidationFailed("Send subject_id, the subject to log in as.")
    signature = form.text("signature")
    if signature is not None and not (
        device_id and form.text("challenge_id") and form.text("nonce")
    ):
        raise ValidationFailed(
            "A signature is of a challenge's nonce: send it with challenge_id, nonce and device_id."
        )
    return LoginClaim(
        subject_id=subject_id,
        caller=await caller_of(services.faces, request, device_id),
        content=(images or videos)[0],
        is_video=bool(videos),
        device_id=device_id,
        signature=None if signature is None else read_signature(signature),
        nonce=form.text("nonce") or "",
        address=request.client.host if request.client else "",
        request_id=request.state.request_id,
    )

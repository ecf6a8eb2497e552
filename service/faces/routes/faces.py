"""`/v1/faces`: detecting, comparing and identifying faces; the threshold; the audit log."""

from collections.abc import Awaitable
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from contracts.errors import OpsinError, ValidationFailed
from contracts.faces.recognition import DetectedFaces, Identification, Verification
from contracts.faces.subjects import (
    SUBJECT_ID,
    FaceEvent,
    NewEvent,
    NewThreshold,
    Threshold,
)
from contracts.pages import Page, PageCursor
from service.auth import audit
from service.auth.principal import quota_key
from service.dependencies import Services, ServicesDep
from service.faces import examples as face_examples
from service.faces import recognition
from service.faces.calibration import resolve_threshold
from service.faces.detection import require_available, submit_detection
from service.faces.requirements import require_finder
from service.faces.subjects import embedder_in_force, require_subject
from service.http.deadlines import Deadline, DeadlineDep
from service.http.disconnect import while_connected
from service.http.errors import problem_responses
from service.http.headers import JobKeyHeader, PrefersAsync
from service.http.multipart import MAX_TEXT_BYTES, TEXT, FieldSpec, read_form
from service.http.uploads import IMAGE_BODY, read_uploads
from service.inference.routes import DEFERRED, job_accepted
from service.openapi import examples
from service.threads import run_in_threadpool

router = APIRouter(prefix="/v1/faces", tags=["Faces"])

_BODY: dict[str, Any] = {"requestBody": IMAGE_BODY}
_PROBLEMS = problem_responses(
    *("bad_request", "payload_too_large", "unsupported_media_type", "validation_error"),
    *("invalid_image", "image_too_large", "queue_full", "dependency_unavailable"),
    *("model_not_ready", "no_worker", "draining", "deadline_exceeded"),
)


class DetectQuery(BaseModel):
    """How much to return."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(32, ge=1, le=256, description="Maximum number of faces, largest first.")


class IdentifyQuery(BaseModel):
    """How much to return."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(5, ge=1, le=50, description="Maximum number of candidates per face.")


class EventsQuery(BaseModel):
    """Filters of the audit log."""

    model_config = ConfigDict(extra="forbid")

    subject_id: str | None = Field(
        None, pattern=SUBJECT_ID, description="Only events of this subject."
    )
    limit: int = Field(50, ge=1, le=200, description="Items per page.")
    cursor: PageCursor = None


@router.post(
    "/detect",
    operation_id="detect_faces",
    summary="Detect the faces in an image",
    openapi_extra=_BODY,
    responses={
        200: examples.json_response("The faces, largest first.", face_examples.DETECTED),
        202: DEFERRED,
        **_PROBLEMS,
        **problem_responses("idempotency_conflict"),
    },
    response_model=DetectedFaces,
)
async def detect(
    *,
    request: Request,
    query: Annotated[DetectQuery, Query()],
    deadline: DeadlineDep,
    deferred: PrefersAsync,
    services: ServicesDep,
    key: JobKeyHeader = None,
) -> DetectedFaces | Response:
    """The position of each face in pixels of the image, and whether it is clear enough."""
    async with deadline.enforced():
        if deferred:
            await require_finder(services)
        else:
            require_available(services)
        uploads = await read_uploads(request, services.settings)
        image = recognition.require_one_image(uploads)
        if deferred:
            client = quota_key(request.scope)
            job = submit_detection(
                services, uploads[0], query.limit, deadline, key=key, client=client
            )
            return job_accepted(await while_connected(request, job))
        work = recognition.detect(services, image, query.limit, deadline)
        return await while_connected(request, work)


@router.post(
    "/verify",
    operation_id="verify_faces",
    summary="Compare two faces",
    openapi_extra=face_examples.form(
        ["image"],
        image=face_examples.files("Two images, or one image with a subject.", 2),
        subject_id=face_examples.word("The subject to compare the image with."),
        device_id=face_examples.word("Identifies the device, as in a login."),
    ),
    responses={
        200: examples.json_response(
            "Whether the faces belong to the same person.", face_examples.VERIFICATION
        ),
        **_PROBLEMS,
        **problem_responses(
            *("subject_not_found", "validation_error", "invalid_image", "image_too_large"),
            *("no_face", "many_faces", "low_quality_face", "locked_out", "conflict"),
        ),
    },
)
async def verify(*, request: Request, deadline: DeadlineDep, services: ServicesDep) -> Verification:
    """Compare two images, or an image and a subject. Each image has to show one clear face.

    A comparison with a subject is under the same locks as a login.
    """
    async with deadline.enforced():
        require_available(services)
        require = partial(require_subject, services)
        fields = {
            "image": FieldSpec(services.settings.max_image_bytes, 2),
            "subject_id": FieldSpec(MAX_TEXT_BYTES, on_complete=require),
            "device_id": TEXT,
        }
        form = await read_form(request, fields)
        images, subject_id = tuple(form.files("image")), form.text("subject_id")
        if len(images) != (2 if subject_id is None else 1):
            raise ValidationFailed("Send two images, or one image and a subject_id.")
    compared = recognition.VerificationInput(images, subject_id, form.opaque_id("device_id"))
    event = NewEvent(
        kind="verify",
        outcome="",
        subject_id=subject_id,
        device=compared.device_id,
        content=b"".join(images),
        request_id=request.state.request_id,
    )
    return await _recorded(services, event, _verify(request, services, compared, deadline))


async def _verify(
    request: Request,
    services: Services,
    compared: recognition.VerificationInput,
    deadline: Deadline,
) -> Verification:
    async with deadline.enforced():
        work = recognition.verify(services, request, compared, deadline)
        return await while_connected(request, work)


async def _recorded(
    services: Services, event: NewEvent, work: Awaitable[Verification]
) -> Verification:
    """Await a comparison, and record its outcome or its error."""
    try:
        verification = await work
    except OpsinError as error:
        await services.faces.record(replace(event, outcome=error.code))
        raise
    await services.faces.record(
        replace(event, outcome=verification.decision, reason=verification.reason)
    )
    return verification


@router.post(
    "/identify",
    operation_id="identify_faces",
    summary="Identify the people in an image",
    openapi_extra=_BODY,
    responses={
        200: examples.json_response(
            "Each face and the subjects it may belong to.", face_examples.IDENTIFICATION
        ),
        **_PROBLEMS,
        **problem_responses("queue_full", "locked_out"),
    },
)
async def identify(
    *,
    request: Request,
    query: Annotated[IdentifyQuery, Query()],
    deadline: DeadlineDep,
    services: ServicesDep,
) -> Identification:
    """Search all subjects for each face. A stranger has no candidates.

    Only subjects above the threshold are candidates. If two are almost equally similar, or the face
    is not clear, the decision is `uncertain`. For a subject who may not log in now, the reason is
    `locked_out`, without the name. Clients who are locked out are refused here too.
    """
    async with deadline.enforced():
        require_available(services)
        image = recognition.require_one_image(await read_uploads(request, services.settings))
    event = NewEvent(
        kind="identify", outcome="", content=image, request_id=request.state.request_id
    )
    try:
        async with deadline.enforced():
            work = recognition.identify(services, request, image, query.limit, deadline)
            identification = await while_connected(request, work)
    except OpsinError as error:
        await services.faces.record(replace(event, outcome=error.code))
        raise
    outcome = f"{len(identification.faces)} faces"
    await services.faces.record(replace(event, outcome=outcome))
    return identification


@router.get(
    "/threshold",
    operation_id="get_threshold",
    summary="Get the threshold",
    responses={
        200: examples.json_response("The current threshold.", face_examples.THRESHOLD),
        **problem_responses("dependency_unavailable"),
    },
)
async def get_threshold(services: ServicesDep) -> Threshold:
    """The similarity at which two faces match, and the data that it was measured on."""
    return await services.faces.effective_threshold(await embedder_in_force(services))


@router.put(
    "/threshold",
    operation_id="set_threshold",
    summary="Set the threshold",
    responses={
        200: examples.json_response("The new threshold.", face_examples.THRESHOLD),
        **problem_responses("job_not_found", "validation_error", "dependency_unavailable"),
    },
)
async def set_threshold(
    *, request: Request, body: NewThreshold, services: ServicesDep
) -> Threshold:
    """Set the threshold for all API processes at once, preferably to a calibrated one.

    If you name the job of a calibration, the threshold also records the data it was measured on.
    """
    embedder = await embedder_in_force(services)
    resolved = await run_in_threadpool(resolve_threshold, body, services.jobs, embedder)
    threshold = await run_in_threadpool(services.faces.repositories.threshold.set, resolved)
    subject = f"{threshold.similarity:g}, margin {threshold.margin:g} ({threshold.source})"
    await audit.record(request, services, "face_threshold_set", subject)
    await services.faces.record(
        NewEvent(
            kind="threshold",
            outcome=f"{threshold.similarity:g}",
            reason=threshold.source,
            request_id=request.state.request_id,
        )
    )
    return threshold


@router.get(
    "/events",
    operation_id="list_face_events",
    summary="Read the audit log of faces",
    responses={
        200: examples.json_response(
            "A page of events, newest first.",
            {"items": [face_examples.EVENT], "next_cursor": None},
        ),
        **problem_responses("validation_error", "dependency_unavailable"),
    },
)
async def list_events(
    query: Annotated[EventsQuery, Query()], services: ServicesDep
) -> Page[FaceEvent]:
    """Logins, comparisons and erasures, with decisions and reasons but without images or scores."""
    return await run_in_threadpool(
        services.faces.events.list,
        subject_id=query.subject_id,
        limit=query.limit,
        cursor=query.cursor,
    )

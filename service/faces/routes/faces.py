"""`/v1/faces`: faces found, compared and named; the threshold in force; the audit."""

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, Field

from contracts.errors import ValidationFailed
from contracts.faces.recognition import DetectedFaces, Identification, Verification
from contracts.faces.subjects import (
    SUBJECT_ID,
    FaceEvent,
    NewEvent,
    NewThreshold,
    Threshold,
)
from contracts.pages import Page
from service.dependencies import ServicesDep
from service.faces import examples as face_examples
from service.faces import recognition
from service.faces.detection import require_open
from service.faces.form import TEXT, Allowed, read_form
from service.faces.subjects import embedder_in_force, require_subject
from service.faces.threshold import chosen
from service.http import examples
from service.http.deadlines import Timed
from service.http.disconnect import while_connected
from service.http.errors import problem_responses
from service.http.uploads import IMAGES_BODY, read_uploads

router = APIRouter(prefix="/v1/faces", tags=["Faces"])

_BODY: dict[str, Any] = {"requestBody": IMAGES_BODY}
_PROBLEMS = problem_responses(
    *("bad_request", "payload_too_large", "unsupported_media_type", "validation_error"),
    *("invalid_image", "image_too_large", "queue_full", "dependency_unavailable"),
    *("model_not_ready", "no_worker", "draining", "deadline_exceeded"),
)


class DetectQuery(BaseModel):
    """How much to tell."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(32, ge=1, le=256, description="Faces, at most; the largest first.")


class IdentifyQuery(BaseModel):
    """How much to tell."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(5, ge=1, le=50, description="Candidates a face, at most.")


class EventsQuery(BaseModel):
    """Which lines."""

    model_config = ConfigDict(extra="forbid")

    subject_id: str | None = Field(None, pattern=SUBJECT_ID, description="Only those about it.")
    limit: int = Field(50, ge=1, le=200, description="Items a page.")
    cursor: str | None = Field(
        None, max_length=256, description="`next_cursor` of the page before."
    )


@router.post(
    "/detect",
    operation_id="detect_faces",
    summary="Find the faces of a picture",
    openapi_extra=_BODY,
    responses={
        200: examples.shown("The faces, the largest first.", face_examples.DETECTED),
        **_PROBLEMS,
    },
)
async def detect(
    *,
    request: Request,
    query: Annotated[DetectQuery, Query()],
    deadline: Timed,
    services: ServicesDep,
) -> DetectedFaces:
    """Where the faces are, in pixels of the picture, and whether each can be recognised well."""
    async with deadline.enforced():
        require_open(services)
        image = recognition.the_image(await read_uploads(request, services.settings))
        work = recognition.detect(services, image, query.limit, deadline)
        return await while_connected(request, work)


@router.post(
    "/verify",
    operation_id="verify_faces",
    summary="Compare two faces",
    openapi_extra=face_examples.form(
        ["image"],
        image=face_examples.files("Two pictures, or one beside a subject.", 2),
        subject_id=face_examples.word("Whom to compare the one picture with."),
    ),
    responses={
        200: examples.shown("Whether they are one person's.", face_examples.VERIFICATION),
        **_PROBLEMS,
        **problem_responses(
            *("subject_not_found", "validation_error", "invalid_image", "image_too_large"),
            *("no_face", "many_faces", "low_quality_face"),
        ),
    },
)
async def verify(*, request: Request, deadline: Timed, services: ServicesDep) -> Verification:
    """Whether two pictures show one person, or a picture a subject. Each shows one clear face."""
    async with deadline.enforced():
        require_open(services)
        images = Allowed(services.settings.max_image_bytes, 2)
        heard = {"subject_id": partial(require_subject, services)}
        form = await read_form(request, {"image": images, "subject_id": TEXT}, heard)
        pair = recognition.Pair(tuple(form.files("image")), form.text("subject_id"))
        if len(pair.images) != (2 if pair.subject_id is None else 1):
            raise ValidationFailed("Send two images, or one image and a subject_id.")
        answer = await while_connected(request, recognition.verify(services, pair, deadline))
    await services.faces.record(
        NewEvent(
            kind="verify",
            outcome=answer.decision,
            reason=answer.reason,
            subject_id=pair.subject_id,
            content=b"".join(pair.images),
            request_id=request.state.request_id,
        )
    )
    return answer


@router.post(
    "/identify",
    operation_id="identify_faces",
    summary="Say who is in a picture",
    openapi_extra=_BODY,
    responses={
        200: examples.shown("Each face and who it may be.", face_examples.IDENTIFICATION),
        **_PROBLEMS,
    },
)
async def identify(
    *,
    request: Request,
    query: Annotated[IdentifyQuery, Query()],
    deadline: Timed,
    services: ServicesDep,
) -> Identification:
    """Who the faces are, among all subjects. A stranger has no candidates.

    Only subjects above the threshold are candidates; where two are nearly as near, or the face is
    not clear, the decision is `uncertain`.
    """
    async with deadline.enforced():
        require_open(services)
        image = recognition.the_image(await read_uploads(request, services.settings))
        work = recognition.identify(services, image, query.limit, deadline)
        answer = await while_connected(request, work)
    await services.faces.record(
        NewEvent(
            kind="identify",
            outcome=f"{len(answer.faces)} faces",
            content=image,
            request_id=request.state.request_id,
        )
    )
    return answer


@router.get(
    "/threshold",
    operation_id="get_threshold",
    summary="Look at the threshold",
    responses={
        200: examples.shown("What is in force.", face_examples.THRESHOLD),
        **problem_responses("dependency_unavailable"),
    },
)
async def get_threshold(services: ServicesDep) -> Threshold:
    """From which similarity on two faces are one person's, and what that was measured on."""
    return await services.faces.threshold(await embedder_in_force(services))


@router.put(
    "/threshold",
    operation_id="set_threshold",
    summary="Set the threshold",
    responses={
        200: examples.shown("What is in force from now on.", face_examples.THRESHOLD),
        **problem_responses("job_not_found", "validation_error", "dependency_unavailable"),
    },
)
async def set_threshold(
    *, request: Request, body: NewThreshold, services: ServicesDep
) -> Threshold:
    """Put a threshold in force, for all API processes at once; best one that was calibrated.

    Name the calibration's job, and the threshold says what it was measured on.
    """
    embedder = await embedder_in_force(services)
    threshold = await run_in_threadpool(chosen, body, services.jobs, embedder)
    told = await run_in_threadpool(services.faces.kept.threshold.put, threshold)
    await services.faces.record(
        NewEvent(
            kind="threshold",
            outcome=f"{told.similarity:g}",
            reason=told.source,
            request_id=request.state.request_id,
        )
    )
    return told


@router.get(
    "/events",
    operation_id="list_face_events",
    summary="Read the audit of faces",
    responses={
        200: examples.shown(
            "A page of events, newest first.",
            {"items": [face_examples.EVENT], "next_cursor": None},
        ),
        **problem_responses("validation_error", "dependency_unavailable"),
    },
)
async def list_events(
    query: Annotated[EventsQuery, Query()], services: ServicesDep
) -> Page[FaceEvent]:
    """Logins, comparisons, erasures: what was decided and why, without pictures or scores."""
    return await run_in_threadpool(
        services.faces.kept.events.list,
        subject_id=query.subject_id,
        limit=query.limit,
        cursor=query.cursor,
    )

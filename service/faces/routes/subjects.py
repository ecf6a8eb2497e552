"""`/v1/faces/subjects`: people who can be recognized, and their enrollment."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from contracts.faces.enrollments import MAX_IMAGES
from contracts.faces.subjects import (
    MAX_NAME_LENGTH,
    SUBJECT_ID,
    Erased,
    NewSubject,
    Subject,
    SubjectChange,
)
from contracts.jobs import Job
from contracts.pages import Page, PageCursor
from service.auth import audit
from service.auth.principal import actor_of
from service.dependencies import ServicesDep
from service.faces import enrollment, subjects
from service.faces import examples as face_examples
from service.faces.privacy import erasure
from service.http.deadlines import DeadlineDep
from service.http.errors import problem_responses
from service.http.headers import CreateKeyHeader
from service.http.large_responses import ReadingDep
from service.http.responses import LOCATION, job_response
from service.jobs.disk_room import require_row_room
from service.openapi import examples
from service.threads import run_in_threadpool

router = APIRouter(prefix="/v1/faces/subjects", tags=["Faces"])

SubjectId = Annotated[
    str,
    Path(description="A subject's id.", pattern=SUBJECT_ID, examples=[face_examples.SUBJECT_ID]),
]
_MISSING = problem_responses("subject_not_found", "validation_error", "dependency_unavailable")
# A consent can be withdrawn, and frames forbidden, while there is room for the line that says it.
_LARGE_FIELDS = frozenset({"name", "external_id", "metadata"})


class SubjectsQuery(BaseModel):
    """Filters of the list of subjects."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(50, ge=1, le=200, description="Items per page.")
    cursor: PageCursor = None
    external_id: str | None = Field(
        None,
        min_length=1,
        max_length=MAX_NAME_LENGTH,
        pattern=r"^[^\x00-\x1f]*$",
        description="Only the subject with this external id.",
    )


@router.post(
    "",
    operation_id="create_subject",
    summary="Add a person",
    status_code=201,
    response_model=Subject,
    responses={
        201: examples.json_response("The subject; it has no templates yet.", face_examples.SUBJECT),
        **problem_responses(
            *("subject_exists", "idempotency_conflict", "validation_error"),
            "dependency_unavailable",
        ),
    },
)
async def create_subject(
    *, body: NewSubject, services: ServicesDep, key: CreateKeyHeader = None
) -> JSONResponse:
    """Add a person by name. An enrollment then adds the templates needed for recognition."""
    subject = await run_in_threadpool(subjects.create, services.faces, body, key)
    return JSONResponse(subject, 201, {"Location": f"{router.prefix}/{subject['id']}"})


@router.get(
    "",
    operation_id="list_subjects",
    summary="List people",
    response_model=Page[Subject],
    responses={
        200: examples.json_response(
            "A page of subjects, newest first.",
            {"items": [face_examples.SUBJECT], "next_cursor": None},
        ),
        **problem_responses("validation_error", "dependency_unavailable"),
        **problem_responses("queue_full", "deadline_exceeded", "draining"),
    },
)
async def list_subjects(
    query: Annotated[SubjectsQuery, Query()], services: ServicesDep, reading: ReadingDep
) -> Response:
    """All subjects, newest first."""
    page = partial(
        services.faces.subjects.list,
        embedder=await subjects.embedder_in_force(services),
        external_id=query.external_id,
        limit=query.limit,
        cursor=query.cursor,
    )
    return await reading.respond(lambda _reserve: page().model_dump_json())


@router.get(
    "/{subject_id}",
    operation_id="get_subject",
    summary="Get a person's record",
    responses={200: examples.json_response("The subject.", face_examples.SUBJECT), **_MISSING},
)
async def get_subject(subject_id: SubjectId, services: ServicesDep) -> Subject:
    """Name, metadata and number of templates; never the templates themselves."""
    embedder = await subjects.embedder_in_force(services)
    return await run_in_threadpool(services.faces.subjects.get, subject_id, embedder=embedder)


@router.patch(
    "/{subject_id}",
    operation_id="change_subject",
    summary="Change a person's record",
    responses={
        200: examples.json_response("The subject after the change.", face_examples.SUBJECT),
        **_MISSING,
        **problem_responses("subject_exists"),
    },
)
async def change_subject(
    *, request: Request, subject_id: SubjectId, body: SubjectChange, services: ServicesDep
) -> Subject:
    """Change the fields that are sent. `keep_frames: false` deletes all stored frames.

    The audit log keeps who changed a consent or `keep_frames`, or enabled or disabled a face.
    """
    if body.model_fields_set & _LARGE_FIELDS:
        await run_in_threadpool(require_row_room, services.settings)
    embedder = await subjects.embedder_in_force(services)
    change = services.faces.subjects.change
    return await run_in_threadpool(
        change, subject_id, body, embedder=embedder, actor=actor_of(request)
    )


@router.delete(
    "/{subject_id}",
    operation_id="delete_subject",
    summary="Erase a person",
    responses={
        200: examples.json_response("What was deleted permanently.", face_examples.ERASED),
        **_MISSING,
    },
)
async def delete_subject(request: Request, subject_id: SubjectId, services: ServicesDep) -> Erased:
    """Erase the subject, every template, frame and upload, also from the memory of all processes.

    Model versions that were trained on its frames are deleted too, and running trainings of them
    are cancelled; a model falls back to its newest version without the subject.

    The only key that decrypts the data is deleted with the record. Running enrollments end. The
    audit log keeps that there was a subject of this id and when it was erased, and nothing else.
    """
    erased = await erasure.erase(services, subject_id)
    await audit.record(request, services, "subject_erased", subject_id)
    return erased


@router.post(
    "/{subject_id}/enrollments",
    operation_id="enroll",
    summary="Enroll a person from a video or images",
    status_code=202,
    response_model=Job,
    openapi_extra=face_examples.form(
        [],
        video=face_examples.file("mp4, mov, webm or avi; a few seconds of one face."),
        image=face_examples.files("Images of one face, instead of a video.", MAX_IMAGES),
        challenge_id=face_examples.word("Of the challenge that the video answers."),
        nonce=face_examples.word("Of that challenge."),
        device_id=face_examples.word("The device_id that the challenge was requested with."),
    ),
    responses={
        202: {
            **examples.json_response(
                "The job; its result counts what became of the frames.",
                examples.JOB | {"kind": "enrollment"},
            ),
            "headers": LOCATION,
        },
        **_MISSING,
        **problem_responses(
            *("bad_request", "conflict", "idempotency_conflict", "payload_too_large"),
            *("unsupported_media_type", "queue_full", "deadline_exceeded"),
        ),
    },
)
async def enroll(
    *,
    request: Request,
    subject_id: SubjectId,
    deadline: DeadlineDep,
    services: ServicesDep,
    key: CreateKeyHeader = None,
) -> JSONResponse:
    """Create templates from the best frames of a video, or from images, and count rejected frames.

    If the face already belongs to another subject, or differs from the templates that the subject
    has, the job fails with `conflict`. With `challenge_id` and `nonce` the video has to show the
    actions of the challenge.
    """
    job = await enrollment.enroll(request, subject_id, key, deadline, services)
    return job_response(job)

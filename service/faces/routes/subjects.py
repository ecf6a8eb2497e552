"""`/v1/faces/subjects`: people who may be recognised, and their enrollment."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from contracts.faces.enrollments import MOST_IMAGES
from contracts.faces.subjects import (
    MOST_NAME,
    SUBJECT_ID,
    Erased,
    NewSubject,
    Subject,
    SubjectChange,
)
from contracts.jobs import Job
from contracts.pages import Page
from service.auth import audit
from service.dependencies import ServicesDep
from service.faces import enrollment, erasure, subjects
from service.faces import examples as face_examples
from service.http import examples
from service.http.deadlines import Timed
from service.http.errors import problem_responses
from service.http.headers import CreationKey

router = APIRouter(prefix="/v1/faces/subjects", tags=["Faces"])

SubjectId = Annotated[
    str,
    Path(description="A subject's id.", pattern=SUBJECT_ID, examples=[face_examples.SUBJECT_ID]),
]
_MISSING = problem_responses("subject_not_found", "validation_error", "dependency_unavailable")


class SubjectsQuery(BaseModel):
    """Which subjects."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(50, ge=1, le=200, description="Items a page.")
    cursor: str | None = Field(
        None, max_length=256, description="`next_cursor` of the page before."
    )
    external_id: str | None = Field(
        None,
        min_length=1,
        max_length=MOST_NAME,
        pattern=r"^[^\x00-\x1f]*$",
        description="Only the one you call so.",
    )


@router.post(
    "",
    operation_id="create_subject",
    summary="Add a person",
    status_code=201,
    response_model=Subject,
    responses={
        201: examples.shown("The subject; it has no templates yet.", face_examples.SUBJECT),
        **problem_responses(
            *("subject_exists", "idempotency_conflict", "validation_error"),
            "dependency_unavailable",
        ),
    },
)
async def create_subject(
    *, body: NewSubject, services: ServicesDep, key: CreationKey = None
) -> JSONResponse:
    """Add a person by name; an enrollment then gives templates to recognise the person by."""
    made = await run_in_threadpool(subjects.create, services.faces.kept, body, key)
    return JSONResponse(made, 201, {"Location": f"{router.prefix}/{made['id']}"})


@router.get(
    "",
    operation_id="list_subjects",
    summary="List people",
    responses={
        200: examples.shown(
            "A page of subjects, newest first.",
            {"items": [face_examples.SUBJECT], "next_cursor": None},
        ),
        **problem_responses("validation_error", "dependency_unavailable"),
    },
)
async def list_subjects(
    query: Annotated[SubjectsQuery, Query()], services: ServicesDep
) -> Page[Subject]:
    """All subjects, newest first."""
    return await run_in_threadpool(
        services.faces.kept.subjects.list,
        embedder=await subjects.embedder_in_force(services),
        external_id=query.external_id,
        limit=query.limit,
        cursor=query.cursor,
    )


@router.get(
    "/{subject_id}",
    operation_id="get_subject",
    summary="Look at a person's record",
    responses={200: examples.shown("The subject.", face_examples.SUBJECT), **_MISSING},
)
async def get_subject(subject_id: SubjectId, services: ServicesDep) -> Subject:
    """Name, your own data, and how many templates there are; never a template."""
    embedder = await subjects.embedder_in_force(services)
    return await run_in_threadpool(services.faces.kept.subjects.get, subject_id, embedder=embedder)


@router.patch(
    "/{subject_id}",
    operation_id="change_subject",
    summary="Change a person's record",
    responses={
        200: examples.shown("The subject as it is now.", face_examples.SUBJECT),
        **_MISSING,
        **problem_responses("subject_exists"),
    },
)
async def change_subject(
    subject_id: SubjectId, body: SubjectChange, services: ServicesDep
) -> Subject:
    """Change what is sent, leave the rest. `keep_frames: false` removes all kept frames."""
    embedder = await subjects.embedder_in_force(services)
    return await run_in_threadpool(
        services.faces.kept.subjects.change, subject_id, body, embedder=embedder
    )


@router.delete(
    "/{subject_id}",
    operation_id="delete_subject",
    summary="Erase a person",
    responses={
        200: examples.shown("What is gone for good.", face_examples.ERASED),
        **_MISSING,
    },
)
async def delete_subject(request: Request, subject_id: SubjectId, services: ServicesDep) -> Erased:
    """Erase the subject, every template, frame and upload, and what any process holds of them.

    Model versions that were trained on its frames go too, and trainings of them end; a model falls
    back to its newest version without the subject.

    The key that alone opens them goes with the record. Enrollments under way end. The audit keeps
    that there was a subject of this id and when it was erased, and no more.
    """
    erased = await erasure.erase(services, subject_id)
    await audit.done(request, services, "subject_erased", subject_id)
    return erased


@router.post(
    "/{subject_id}/enrollments",
    operation_id="enroll",
    summary="Enroll a person from a video or pictures",
    status_code=202,
    response_model=Job,
    openapi_extra=face_examples.form(
        [],
        video=face_examples.file("mp4, mov, webm or avi; a few seconds of one face."),
        image=face_examples.files("Pictures of one face, in place of a video.", MOST_IMAGES),
        challenge_id=face_examples.word("Of the challenge that the video answers."),
        nonce=face_examples.word("Of that challenge."),
        device_id=face_examples.word("As it was told for the challenge."),
    ),
    responses={
        202: {
            **examples.shown(
                "The job; its result says what became of each frame.",
                examples.JOB | {"kind": "enrollment"},
            ),
            "headers": {
                "Location": {"description": "The job's address.", "schema": {"type": "string"}}
            },
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
    deadline: Timed,
    services: ServicesDep,
    key: CreationKey = None,
) -> JSONResponse:
    """Take templates from the best frames of a video, or from pictures, and say why others fail.

    A face that is already somebody else's, or for a subject that has templates any other than the
    subject's, ends the job with `conflict`. With `challenge_id` and
    `nonce` the video has to show what the challenge asked for.
    """
    job = await enrollment.enroll(request, subject_id, key, deadline, services)
    return JSONResponse(job.model_dump(mode="json"), 202, {"Location": f"/v1/jobs/{job.id}"})

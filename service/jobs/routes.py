"""`/v1/jobs`: look at long tasks, follow them, stop them, clear them away."""

from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel, ConfigDict, Field

from contracts.jobs import Job, JobKind, JobState
from contracts.pages import Page
from service.auth.principal import caller_of, payer_of
from service.auth.scopes import scope_of_job
from service.dependencies import ServicesDep
from service.http import examples
from service.http.errors import problem_responses
from service.http.file_response import artifact_response
from service.jobs.events import follow, last_told

router = APIRouter(prefix="/v1/jobs", tags=["Jobs"])

JobId = Annotated[str, Path(description="A job's id.", examples=[examples.JOB["id"]])]


class JobsQuery(BaseModel):
    """Which jobs to list."""

    model_config = ConfigDict(extra="forbid")

    kind: JobKind | None = Field(None, description="Only jobs of this kind.")
    state: JobState | None = Field(None, description="Only jobs in this state.")
    limit: int = Field(50, ge=1, le=200, description="Jobs a page.")
    cursor: str | None = Field(
        None, max_length=256, description="`next_cursor` of the page before."
    )


async def found_job(request: Request, job_id: JobId, services: ServicesDep) -> Job:
    """The job of that id, looked up before an answer is begun.

    Raises:
        JobNotFound: There is none.
        Forbidden: The key has not the scope that makes such jobs.
    """
    job = await run_in_threadpool(services.jobs.get, job_id)
    caller_of(request).require(scope_of_job(job.kind))
    return job


Found = Annotated[Job, Depends(found_job)]


async def streaming(request: Request, _job: Found, services: ServicesDep) -> AsyncIterator[None]:
    """A place for a stream, kept until its answer has ended.

    Raises:
        QueueFull: There is none.
    """
    with services.streams.taken(payer_of(request.scope)):
        yield


_MISSING = problem_responses("job_not_found", "validation_error", "dependency_unavailable")


@router.get(
    "",
    operation_id="list_jobs",
    summary="List jobs",
    responses={
        200: examples.shown(
            "A page of jobs, newest first.",
            {"items": [examples.JOB, examples.TRAINING], "next_cursor": None},
        ),
        **problem_responses("validation_error", "dependency_unavailable"),
    },
)
async def list_jobs(
    request: Request, query: Annotated[JobsQuery, Query()], services: ServicesDep
) -> Page[Job]:
    """All jobs that are kept, newest first; those that the key may look at."""
    page = await run_in_threadpool(
        services.jobs.list,
        kind=query.kind,
        state=query.state,
        limit=query.limit,
        cursor=query.cursor,
    )
    caller = caller_of(request)
    seen = [job for job in page.items if caller.may(scope_of_job(job.kind))]
    return Page(items=seen, next_cursor=page.next_cursor)


@router.get(
    "/{job_id}",
    operation_id="get_job",
    summary="Look at a job",
    responses={200: examples.shown("The job.", examples.TRAINING), **_MISSING},
)
async def get_job(job: Found) -> Job:
    """State, progress, metrics, artifacts and, once it has succeeded, the result."""
    return job


@router.delete(
    "/{job_id}",
    operation_id="delete_job",
    summary="Clear a finished job away",
    status_code=204,
    responses={**_MISSING, **problem_responses("conflict")},
)
async def delete_job(job: Found, services: ServicesDep) -> Response:
    """Forget a finished job, its result and its files. One that is not must be cancelled first."""
    await run_in_threadpool(services.jobs.delete, job.id)
    return Response(status_code=204)


@router.post(
    "/{job_id}/cancel",
    operation_id="cancel_job",
    summary="Stop a job",
    responses={
        200: examples.shown("The job.", examples.JOB | {"state": "cancelled"}),
        **_MISSING,
        **problem_responses("conflict"),
    },
)
async def cancel_job(job: Found, services: ServicesDep) -> Job:
    """Stop a job. A waiting one never starts; a running one stops within one step."""
    return await run_in_threadpool(services.jobs.cancel, job.id)


@router.get(
    "/{job_id}/events",
    operation_id="follow_job",
    summary="Follow a job",
    response_class=EventSourceResponse,
    dependencies=[Depends(streaming)],
    responses={
        200: {
            "description": "Server-sent events `state`, `progress`, `metrics` and `artifact`.",
            "content": {"text/event-stream": {"example": examples.EVENTS}},
        },
        **_MISSING,
        **problem_responses("queue_full"),
    },
)
async def follow_job(
    request: Request,
    job: Found,
    services: ServicesDep,
    last_event_id: Annotated[
        str | None,
        Header(alias="Last-Event-ID", description="Resume after the event of this id."),
    ] = None,
) -> AsyncIterator[ServerSentEvent]:
    """What happens to the job, as it happens. A finished job is replayed, and the stream ends.

    A stream ends after ten minutes at the latest, and when its key is revoked; a browser's
    `EventSource` resumes by itself.
    """
    async for event in follow(
        partial(services.jobs.history, job.id),
        last_told(last_event_id),
        may_go_on=partial(services.keyring.stands, caller_of(request)),
    ):
        yield event


@router.get(
    "/{job_id}/artifacts/{name}",
    operation_id="get_artifact",
    summary="Fetch a file that a job made",
    response_class=Response,
    responses={
        200: {
            "description": "The file.",
            "content": {
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
                "image/png": {"schema": {"type": "string", "format": "binary"}},
            },
            "headers": {
                "Content-Disposition": {
                    "description": "The file's name.",
                    "schema": {"type": "string"},
                }
            },
        },
        **_MISSING,
        **problem_responses("job_not_found", "not_found"),
    },
)
async def get_artifact(
    job: Found,
    name: Annotated[
        str, Path(description="As listed in the job's `artifacts`.", examples=["curves.png"])
    ],
    services: ServicesDep,
) -> Response:
    """One of the job's `artifacts`, as its media type. One may be replaced while the job runs."""
    return await run_in_threadpool(artifact_response, job, name, services.job_files)

"""`/v1/jobs`: list, follow, cancel and delete jobs, and download their artifacts."""

from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from contracts.jobs import FINISHED, Job, JobKind, JobState
from contracts.keys import SCOPES
from contracts.pages import Page, PageCursor, PageLimit, page_json
from database.paging import Reserve
from service.auth.job_scopes import may_read, require_job
from service.auth.principal import Principal, principal_of, quota_key
from service.auth.sessions import Session
from service.dependencies import Services, ServicesDep
from service.http.errors import NoContentError, problem_responses
from service.http.files import file_responses
from service.http.large_responses import ReadingDep
from service.http.responses import artifact_response
from service.jobs.events import StreamCursor, follow, parse_last_event_id, pending_events
from service.openapi import examples
from service.threads import run_in_threadpool

router = APIRouter(prefix="/v1/jobs", tags=["Jobs"])

JobId = Annotated[str, Path(description="A job's id.", examples=[examples.JOB["id"]])]


class JobsQuery(BaseModel):
    """Filters and page of the list."""

    model_config = ConfigDict(extra="forbid")

    kind: JobKind | None = Field(None, description="Only jobs of this kind.")
    state: JobState | None = Field(None, description="Only jobs in this state.")
    limit: PageLimit = 50
    cursor: PageCursor = None


async def _readable_job(request: Request, job_id: JobId, services: ServicesDep) -> Job:
    """The job of that id without metrics and result, read before the response begins.

    Raises:
        JobNotFound: There is no such job.
        Forbidden: The key lacks a scope that the job's request needed.
    """
    return await run_in_threadpool(_outline, services, principal_of(request), job_id)


def _outline(services: Services, principal: Principal, job_id: str) -> Job:
    job = services.jobs.outline(job_id)
    require_job(principal, job, services.jobs, services.store)
    return job


JobDep = Annotated[Job, Depends(_readable_job)]


async def _stream_slot(
    request: Request, _job: JobDep, services: ServicesDep
) -> AsyncIterator[None]:
    """A stream, counted until its response has ended.

    Raises:
        QueueFull: There are too many.
    """
    with services.stream_limiter.acquire(quota_key(request.scope)):
        yield


LastEventId = Annotated[
    str | None,
    Header(alias="Last-Event-ID", description="Resume after the event with this id."),
]


async def _require_news(
    job: JobDep, services: ServicesDep, last_event_id: LastEventId = None
) -> None:
    """End the requests of an `EventSource`, which comes back after the end of every stream.

    Raises:
        NoContentError: The job is finished, and the client has received all of it.
    """
    cursor = parse_last_event_id(last_event_id)
    if job.state not in FINISHED or cursor == StreamCursor():
        return
    history = await run_in_threadpool(services.jobs.history, job.id, cursor.entry)
    if history.job.state in FINISHED and not pending_events(history, cursor):
        raise NoContentError


_MISSING = problem_responses("job_not_found", "validation_error", "dependency_unavailable")
_BUSY = problem_responses("queue_full", "deadline_exceeded", "draining")


@router.get(
    "",
    operation_id="list_jobs",
    summary="List jobs",
    response_model=Page[Job],
    responses={
        200: examples.json_response(
            "A page of jobs, newest first.",
            {"items": [examples.JOB, examples.TRAINING], "next_cursor": None},
        ),
        **problem_responses("validation_error", "dependency_unavailable"),
        **_BUSY,
    },
)
async def list_jobs(
    request: Request,
    query: Annotated[JobsQuery, Query()],
    services: ServicesDep,
    reading: ReadingDep,
) -> Response:
    """All stored jobs that the key may read, newest first.

    A page of jobs with large results ends early.
    """
    return await reading.respond(partial(_page, services, principal_of(request), query))


def _page(services: Services, principal: Principal, query: JobsQuery, reserve: Reserve) -> str:
    jobs = services.jobs
    page = jobs.page(
        kind=query.kind,
        state=query.state,
        limit=query.limit,
        cursor=query.cursor,
        without=[scope for scope in SCOPES if not principal.may(scope)],
        reserve=reserve,
    )
    visible = [one for one in page.items if may_read(principal, one.job, jobs, services.store)]
    return page_json((one.as_json() for one in visible), page.next_cursor)


@router.get(
    "/{job_id}",
    operation_id="get_job",
    summary="Get a job",
    response_model=Job,
    responses={200: examples.json_response("The job.", examples.TRAINING), **_MISSING, **_BUSY},
)
async def get_job(
    request: Request, job_id: JobId, services: ServicesDep, reading: ReadingDep
) -> Response:
    """State, progress, metrics, artifacts and, once it has succeeded, the result."""
    return await reading.respond(partial(_job, services, principal_of(request), job_id))


def _job(services: Services, principal: Principal, job_id: str, reserve: Reserve) -> str:
    stored = services.jobs.stored(job_id, reserve)
    require_job(principal, stored.job, services.jobs, services.store)
    return stored.as_json()


@router.delete(
    "/{job_id}",
    operation_id="delete_job",
    summary="Delete a finished job",
    status_code=204,
    responses={**_MISSING, **problem_responses("conflict")},
)
async def delete_job(job: JobDep, services: ServicesDep) -> Response:
    """Delete a finished job, its result and its files. Cancel an unfinished one first."""
    await run_in_threadpool(services.jobs.delete, job.id)
    return Response(status_code=204)


@router.post(
    "/{job_id}/cancel",
    operation_id="cancel_job",
    summary="Cancel a job",
    response_model=Job,
    responses={
        200: examples.json_response("The job.", examples.JOB | {"state": "cancelled"}),
        **_MISSING,
        **problem_responses("conflict"),
        **_BUSY,
    },
)
async def cancel_job(
    request: Request, job: JobDep, services: ServicesDep, reading: ReadingDep
) -> Response:
    """A queued job never starts; a running one stops within one step."""
    await run_in_threadpool(services.jobs.cancel, job.id)
    return await reading.respond(partial(_job, services, principal_of(request), job.id))


class EventStream(StreamingResponse):
    """Events in pieces; FastAPI's own class sends them one by one through three tasks."""

    media_type = "text/event-stream"


@router.get(
    "/{job_id}/events",
    operation_id="follow_job",
    summary="Follow a job",
    response_class=EventStream,
    dependencies=[Depends(_require_news), Depends(_stream_slot)],
    responses={
        200: {
            "description": "Server-sent events `state`, `progress`, `metrics` and `artifact`.",
            "content": {"text/event-stream": {"example": examples.EVENTS}},
        },
        204: {"description": "The job is finished, and nothing is new since `Last-Event-ID`."},
        **_MISSING,
        **problem_responses("queue_full"),
    },
)
async def follow_job(
    request: Request,
    job: JobDep,
    services: ServicesDep,
    last_event_id: LastEventId = None,
) -> Response:
    """The changes of a job as they happen. A finished job is replayed, and the stream ends.

    A client that has received everything of a finished job gets 204, which ends an `EventSource`.

    A stream ends after at most ten minutes, and when its key is revoked or its session ends; a
    browser's `EventSource` resumes by itself.
    """
    pieces = follow(
        partial(services.jobs.history, job.id),
        parse_last_event_id(last_event_id),
        may_continue=partial(_is_authorized, request, services),
    )
    # `X-Accel-Buffering` lets nginx pass events on at once.
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return EventStream(pieces, headers=headers)


async def _is_authorized(request: Request, services: Services) -> bool:
    """Whether the key or the session of a request is still valid."""
    session: Session | None = request.scope["state"].get("session")
    if session is not None:
        return await services.sessions.is_valid(session)
    return services.key_cache.is_valid(principal_of(request))


@router.get(
    "/{job_id}/artifacts/{name}",
    operation_id="get_artifact",
    summary="Download an artifact of a job",
    response_class=Response,
    responses={
        **file_responses(
            "The file.",
            {
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
                "image/png": {"schema": {"type": "string", "format": "binary"}},
            },
        ),
        **_MISSING,
        **problem_responses("job_not_found", "not_found"),
    },
)
async def get_artifact(
    request: Request,
    job: JobDep,
    name: Annotated[
        str, Path(description="As listed in the job's `artifacts`.", examples=["curves.png"])
    ],
    services: ServicesDep,
) -> Response:
    """One of the job's `artifacts`. A running job may replace it.

    `If-None-Match` with the `ETag` of an earlier response saves a download, `Range` resumes one.
    """
    return await run_in_threadpool(artifact_response, request, job, name, services.job_files)

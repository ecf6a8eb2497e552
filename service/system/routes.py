"""What whoever runs the service asks it: does it live, can it serve, what is it doing."""

from typing import Literal

from fastapi import APIRouter, Response
from fastapi.responses import RedirectResponse
from pydantic import BaseModel

from contracts.inference.registry import Readiness, SystemInfo
from contracts.settings import RELEASE
from service.dependencies import ServicesDep
from service.http import examples
from service.http.errors import problem_responses
from service.system.readiness import job_queues_of, readiness_of

router = APIRouter(tags=["Operations"])


class Health(BaseModel):
    """The process lives."""

    status: Literal["ok"] = "ok"


@router.get(
    "/healthz",
    operation_id="get_health",
    summary="Does the process live?",
    responses={200: examples.shown("It does.", {"status": "ok"})},
)
async def get_health() -> Health:
    """Answers as long as the process can answer at all; asks nobody else. Needs no key."""
    return Health()


@router.get(
    "/readyz",
    operation_id="get_readiness",
    summary="Can it serve?",
    responses={
        200: examples.shown("It can.", examples.READINESS),
        503: {
            "model": Readiness,
            **examples.shown(
                "It cannot; the body says what does not answer.",
                examples.READINESS
                | {"ready": False, "worker": "none", "detail": "No worker is running."},
            ),
        },
    },
)
async def get_readiness(response: Response, services: ServicesDep) -> Readiness:
    """Whether Redis, the database and a worker with a loaded model answer. Needs no key."""
    readiness = await readiness_of(services)
    response.status_code = 200 if readiness.ready else 503
    return readiness


@router.get(
    "/v1/system",
    operation_id="get_system",
    summary="The whole installation at a glance",
    responses={
        200: examples.shown("Workers, devices, queues and models.", examples.SYSTEM),
        **problem_responses("dependency_unavailable"),
    },
)
async def get_system(services: ServicesDep) -> SystemInfo:
    """Version, workers, devices, models; queues with depth and drain rate, and those of jobs."""
    workers = list(services.presence.workers)
    return SystemInfo(
        version=RELEASE,
        started_at=services.started_at,
        workers=workers,
        devices=sorted({device for worker in workers for device in worker.devices}),
        queues=list(services.presence.queues()),
        job_workers=list(services.presence.job_workers),
        job_queues=await job_queues_of(services),
        models=list(services.presence.models()),
    )


@router.get("/", include_in_schema=False, summary="The documentation")
async def go_to_docs() -> RedirectResponse:
    """Until there is a console, the documentation is the front page."""
    return RedirectResponse("/docs", status_code=307)

"""Health, readiness and the state of the installation."""

from contextlib import suppress
from functools import partial
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, Field, StringConstraints

from contracts.errors import OpsinError
from contracts.inference.manifest import MODEL_NAME
from contracts.inference.registry import Readiness, SystemInfo
from contracts.key_proof import CHALLENGE_HEADER, PROOF_HEADER, KeyChallenge
from contracts.metrics.exposition import OPENMETRICS
from contracts.settings import RELEASE
from service.dependencies import Services, ServicesDep
from service.http.body import JSON_TYPE
from service.http.errors import problem_responses
from service.http.parts import ResponseInParts
from service.openapi import examples
from service.shared_reads import SHARE
from service.system.metrics import metrics_of
from service.system.readiness import job_queues_of, readiness_of

router = APIRouter(tags=["Operations"])


class Health(BaseModel):
    """The process is alive."""

    status: Literal["ok"] = "ok"


class ReadinessQuery(BaseModel):
    """What must be ready."""

    model: Annotated[str, StringConstraints(pattern=MODEL_NAME)] | None = Field(
        None, description="This model; the default is any.", examples=["vgg16"]
    )


@router.get(
    "/healthz",
    operation_id="get_health",
    summary="Is the process alive?",
    responses={200: examples.json_response("It is.", {"status": "ok"})},
)
async def get_health(request: Request, response: Response, services: ServicesDep) -> Health:
    """Responds as long as the process can; checks no dependency. Needs no key."""
    challenge = KeyChallenge.parse(request.headers.get(CHALLENGE_HEADER, ""))
    if challenge and (proof := await _proof(challenge, services)):
        response.headers[PROOF_HEADER] = proof
    return Health()


async def _proof(challenge: KeyChallenge, services: Services) -> str | None:
    proof = services.key_cache.proof(challenge, services.settings.port)
    if proof is None:  # the key may be new
        with suppress(OpsinError):  # then the database does not answer, and the key proves nothing
            await services.changes.check("keys")
        proof = services.key_cache.proof(challenge, services.settings.port)
    return proof


@router.get(
    "/readyz",
    operation_id="get_readiness",
    summary="Can it serve?",
    responses={
        200: examples.json_response("It can.", examples.READINESS),
        **problem_responses("validation_error"),
        503: {
            "model": Readiness,
            **examples.json_response(
                "It cannot; the body says what does not respond.",
                examples.READINESS
                | {"ready": False, "worker": "none", "detail": "No worker is running."},
            ),
        },
    },
)
async def get_readiness(
    query: Annotated[ReadinessQuery, Query()], response: Response, services: ServicesDep
) -> Readiness:
    """Whether Redis, the database and a worker with a loaded model respond. Needs no key.

    `loading` lists the networks that are not ready yet; `?model=` waits for one of them.
    """
    readiness = await readiness_of(services, query.model)
    response.status_code = 200 if readiness.ready else 503
    return readiness


@router.get(
    "/v1/system",
    operation_id="get_system",
    summary="The whole installation at a glance",
    response_model=SystemInfo,
    responses={
        200: examples.json_response("Workers, devices, queues and models.", examples.SYSTEM),
        **problem_responses("dependency_unavailable"),
    },
)
async def get_system(services: ServicesDep) -> Response:
    """Version, workers, devices, models, job queues, and inference queues with depth and rate."""
    content = await services.shared_reads.run("system", partial(_system, services), share=SHARE)
    return ResponseInParts(content, media_type=JSON_TYPE)


def _system(services: Services) -> bytes:
    workers = list(services.workers.workers)
    info = SystemInfo(
        version=RELEASE,
        started_at=services.started_at,
        workers=workers,
        devices=sorted({device for worker in workers for device in worker.devices}),
        queues=services.workers.queues(),
        job_workers=list(services.workers.job_workers),
        job_queues=job_queues_of(services),
        models=services.workers.models(),
    )
    return info.model_dump_json(by_alias=True).encode()


@router.get(
    "/metrics",
    operation_id="get_metrics",
    summary="Metrics for Prometheus",
    response_class=PlainTextResponse,
    responses={
        200: {
            "description": "The text format of Prometheus, or OpenMetrics if `Accept` prefers it.",
            "content": {
                "text/plain": {"example": "opsin_ready 1.0\n"},
                OPENMETRICS: {"example": "opsin_ready 1.0\n# EOF\n"},
            },
        }
    },
)
async def get_metrics(request: Request, services: ServicesDep) -> Response:
    """What all processes have counted, and their state; the same at every API process.

    Needs a key of any scope. Prometheus sends one with `authorization: {credentials: …}`.
    """
    content, media_type = await metrics_of(services, request.headers.get("Accept", ""))
    return ResponseInParts(content, headers={"Content-Type": media_type})

"""Triton's extensions of the Open Inference Protocol: statistics, and loading models.

What its clients may ask for and this server does not have (shared memory, tracing, log settings) is
answered as by a Triton without it, so that they get an error that they understand.
"""

from functools import partial
from typing import Any

import pydantic
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from contracts.errors import BadRequest, PayloadTooLarge, ValidationFailed
from contracts.queue.heartbeat import VersionStatistics
from service.dependencies import ServicesDep
from service.http.body import JSON_TYPE, read_body
from service.http.errors import problem_responses
from service.http.parts import ResponseInParts
from service.http.path_params import ModelRefDep, versioned
from service.openapi import examples
from service.protocols import oip
from service.protocols.availability import choose_any
from service.protocols.oip_schemas import LoadRequest
from service.protocols.statistics import StatisticsResponse, statistics_of
from service.queue.version_routing import find_version
from service.queue.workers import WorkerRegistry
from service.shared_reads import SHARE

router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"])

_MAX_LOAD_BYTES = 1 << 20  # clients may send a configuration, which is refused in words
_NO_TRACING = "The server does not support tracing settings; there is nothing to read or change."
_NO_LOGGING = (
    "The server does not support reading or changing its log settings. OPSIN_LOG_LEVEL sets the "
    "level at the next start."
)
_NOT_FOUND = problem_responses(
    "model_not_found", "version_not_found", "validation_error", "model_not_ready", plain=True
)
_MEMORY = ("systemsharedmemory", "cudasharedmemory")


@router.get(
    "/models/stats",
    operation_id="oip_statistics",
    summary="Statistics of all models",
    response_model=StatisticsResponse,
    responses={200: examples.json_response("The statistics.", examples.OIP_STATISTICS)},
)
async def get_all_statistics(services: ServicesDep) -> Response:
    """The counts of every version that a worker has computed something with."""
    make = partial(_statistics, services.workers)
    content = await services.shared_reads.run("statistics", make, share=SHARE)
    return ResponseInParts(content, media_type=JSON_TYPE)


def _statistics(workers: WorkerRegistry) -> bytes:
    reports: dict[tuple[str, int], list[VersionStatistics]] = {}
    for worker in workers.workers:
        for report in worker.statistics:
            reports.setdefault((report.model, report.version), []).append(report)
    found = [statistics_of(*version, own) for version, own in sorted(reports.items())]
    return StatisticsResponse(model_stats=found).model_dump_json(by_alias=True).encode()


@router.get(
    "/models/{model}/versions/{version}/stats",
    operation_id="oip_model_version_statistics",
    summary="Statistics of a version",
    openapi_extra=versioned(),
    responses={
        200: examples.json_response("The statistics.", examples.OIP_STATISTICS),
        **_NOT_FOUND,
    },
)
@router.get(
    "/models/{model}/stats",
    operation_id="oip_model_statistics",
    summary="Statistics of a model",
    responses={
        200: examples.json_response("The statistics.", examples.OIP_STATISTICS),
        **_NOT_FOUND,
    },
)
async def get_statistics(ref: ModelRefDep, services: ServicesDep) -> StatisticsResponse:
    """Classified and embedded images, batches, and how long they took.

    The counts are those of all workers that run now, each since it started. Opsin counts images
    where Triton counts requests, and does not measure `compute_input` and `compute_output`.
    """
    info = services.workers.model(ref.model)
    reports = [report for worker in services.workers.workers for report in worker.statistics]
    counted = {report.version for report in reports if report.model == info.name}
    if ref.version is not None:
        versions = {find_version(info, ref.version)}
    else:
        versions = counted | set(info.aliases.values())
    return StatisticsResponse(
        model_stats=[statistics_of(info.name, one, reports) for one in sorted(versions)]
    )


@router.post(
    "/repository/models/{model}/load",
    operation_id="oip_load_model",
    summary="Check that a model is loaded",
    response_class=Response,
    openapi_extra={
        "requestBody": {
            "content": {
                "application/json": {
                    "schema": {"$ref": "#/components/schemas/LoadRequest"},
                    "example": {},
                }
            }
        }
    },
    responses={
        200: examples.json_response("It is loaded.", {}),
        **problem_responses("bad_request", "payload_too_large", plain=True),
        **_NOT_FOUND,
        **problem_responses("model_not_ready", "no_worker", plain=True),
    },
)
async def load_model(request: Request, ref: ModelRefDep, services: ServicesDep) -> Response:
    """Succeeds if the model is loaded, and otherwise says why it is not.

    Workers load what `OPSIN_MODELS` names and what an alias points to; this changes nothing.
    """
    too_large = PayloadTooLarge("A model cannot be sent with a request to load it.")
    body = await read_body(request, _MAX_LOAD_BYTES, too_large)
    try:
        parameters = LoadRequest.model_validate_json(body).parameters if body.strip() else {}
    except pydantic.ValidationError:
        raise ValidationFailed("Send nothing, or {}.") from None
    if parameters:
        raise BadRequest(
            "The server does not support loading a model with a configuration or files of the "
            "client. POST /v1/trainings makes models."
        )
    services.workers.model(ref.model)
    choose_any(services.workers, ref.model, None)
    return JSONResponse({})


@router.post("/repository/models/{model}/unload", include_in_schema=False)
async def unload_model(ref: ModelRefDep, services: ServicesDep) -> Response:
    """Refused, because other clients may be using the model."""
    info = services.workers.model(ref.model)
    raise BadRequest(
        "The server does not support unloading a model by this request. A version is unloaded when "
        f"no alias points to it: DELETE /v1/models/{info.name}/aliases/champion."
    )


async def _refuse_tracing() -> Response:
    raise BadRequest(_NO_TRACING)


async def _refuse_logging() -> Response:
    raise BadRequest(_NO_LOGGING)


async def _list_regions() -> list[Any]:
    """No region of shared memory is registered, ever."""
    return []


async def _forget_regions() -> dict[str, Any]:
    """There is nothing to unregister; clients do this before they begin, to be sure."""
    return {}


async def _refuse_region(region: str) -> Response:
    raise BadRequest(
        f"Unable to find the shared memory region '{region[:64]}'. {oip.NO_SHARED_MEMORY}"
    )


async def _refuse_registration() -> Response:
    raise BadRequest(oip.NO_SHARED_MEMORY)


def _add_unsupported() -> None:
    """The addresses that answer only that there is nothing."""
    add = router.add_api_route
    for path in ("/trace/setting", "/models/{model}/trace/setting"):
        add(path, _refuse_tracing, methods=["GET", "POST"], include_in_schema=False)
    add("/logging", _refuse_logging, methods=["GET", "POST"], include_in_schema=False)
    for memory in _MEMORY:
        one = f"/{memory}/region/{{region}}"
        add(f"/{memory}/status", _list_regions, include_in_schema=False)
        add(f"{one}/status", _refuse_region, include_in_schema=False)
        add(f"{one}/register", _refuse_registration, methods=["POST"], include_in_schema=False)
        for path in (f"/{memory}/unregister", f"{one}/unregister"):
            add(path, _forget_regions, methods=["POST"], include_in_schema=False)


_add_unsupported()

"""`/v1/models/{name}/layers`, `/v1/activations` and `/v1/filters`: what layers respond to."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from contracts.errors import ModelNotReady
from contracts.inference.explanation import FiltersRequest, Layer
from contracts.inference.heatmap import ActivationsResponse, LayersResponse, LayerTotals
from contracts.inference.inference import Resize
from contracts.inference.manifest import MODEL_NAME
from contracts.jobs import Job
from contracts.queue.explain_messages import ActivationsRequest, Order
from models.explain.layers import read_layers
from models.rendering.colormaps import Colormap
from models.store.store import Store
from service.auth.principal import principal_of, quota_key
from service.dependencies import ServicesDep
from service.explanation.activations import ActivationsHandler
from service.explanation.filters import submit
from service.http.deadlines import DeadlineDep
from service.http.errors import problem_responses
from service.http.headers import AcceptedType, CreateKeyHeader, JobKeyHeader, PrefersAsync
from service.http.responses import job_response
from service.http.uploads import IMAGE_BODY
from service.inference.routes import DEFERRED, PROBLEMS, ModelQuery, job_accepted, require_one_model
from service.openapi import examples
from service.threads import run_in_threadpool

router = APIRouter(tags=["Explanation"], dependencies=[Depends(require_one_model)])

_UNKNOWN = problem_responses("model_not_found", "version_not_found", "layer_not_found")


class ActivationsQuery(ModelQuery):
    """Which feature maps to show, and how."""

    layer: Layer | None = Field(
        None, description="The default is that of heatmaps.", examples=["fire9_concat"]
    )
    channels: int = Field(25, ge=1, le=64, description="How many, at most all of them.")
    order: Order = Field(
        "strongest",
        description="`strongest`: by mean activation, highest first; `index` or `random`.",
    )
    seed: int = Field(0, ge=0, le=2**31 - 1, description="For `random`.")
    resize: Resize | None = Field(
        None,
        description="`crop` takes the center, `squash` keeps the whole image. Default: as in the "
        "model's training, mostly `crop`.",
    )
    colormap: Colormap = Field("viridis", description="From a map's lowest value to its highest.")


class LayersQuery(BaseModel):
    """The version."""

    model_config = ConfigDict(extra="forbid")

    version: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9_.-]{1,64}$",
        description="A version number or an alias. The default is `champion`.",
    )


@router.post(
    "/v1/activations",
    operation_id="activations",
    summary="Show the feature maps of a layer",
    response_class=Response,
    responses={
        200: {
            "description": "A contact sheet of the maps, or the maps as JSON.",
            "model": ActivationsResponse,
            "content": {
                "image/png": {"schema": {"type": "string", "format": "binary"}},
                "application/json": {"example": examples.ACTIVATIONS},
            },
            "headers": {"X-Cache": examples.PNG_HEADERS["X-Cache"]},
        },
        202: DEFERRED,
        **PROBLEMS,
        **_UNKNOWN,
    },
    openapi_extra={"requestBody": IMAGE_BODY},
)
async def activations(
    *,
    request: Request,
    query: Annotated[ActivationsQuery, Query()],
    deadline: DeadlineDep,
    media_type: AcceptedType,
    deferred: PrefersAsync,
    services: ServicesDep,
    key: JobKeyHeader = None,
) -> Response:
    """Show a layer's feature maps of one image.

    Each map has its own range of colors; a constant one is marked as blank.
    """
    question = ActivationsRequest(
        layer=query.layer, channels=query.channels, order=query.order, seed=query.seed
    )
    handler = ActivationsHandler(
        services,
        request,
        question,
        query.model,
        query.version,
        query.resize,
        query.colormap,
        media_type,
        deadline,
    )
    return job_accepted(await handler.submit_job(key)) if deferred else await handler.answer()


@router.get(
    "/v1/models/{name}/layers",
    operation_id="list_layers",
    summary="List a network's layers",
    responses={
        200: examples.json_response(
            "Its layers, in the order of the forward pass.", examples.LAYERS
        ),
        **problem_responses("validation_error", "model_not_ready", "dependency_unavailable"),
        **_UNKNOWN,
    },
)
async def list_layers(
    *,
    name: Annotated[
        str, Path(description="A model's name.", pattern=MODEL_NAME, examples=["squeezenet"])
    ],
    query: Annotated[LayersQuery, Query()],
    services: ServicesDep,
) -> LayersResponse:
    """The layers of a version. Those that are `explainable` have feature maps."""
    return await run_in_threadpool(_layers, services.store, name, query.version)


@router.post(
    "/v1/filters",
    operation_id="filters",
    summary="Show the patterns that excite filters most",
    status_code=202,
    response_model=Job,
    responses={
        202: examples.json_response(
            "The job; its artifact `filters.png` is a contact sheet of the patterns.",
            examples.JOB | {"kind": "filters"},
        ),
        **problem_responses(
            "conflict",
            "idempotency_conflict",
            "validation_error",
            "queue_full",
            "dependency_unavailable",
            "model_not_ready",
            "no_worker",
        ),
        **_UNKNOWN,
    },
)
async def filters(
    *,
    request: Request,
    body: FiltersRequest,
    services: ServicesDep,
    key: CreateKeyHeader = None,
) -> JSONResponse:
    """Find by gradient ascent from noise what each filter of a layer responds to most."""
    job = await submit(body, key, services, quota_key(request.scope), principal_of(request))
    return job_response(job)


def _layers(store: Store, name: str, version: int | str | None) -> LayersResponse:
    number = store.resolve(name, version)
    try:
        layers = read_layers(store.path(name, number))
    except FileNotFoundError:
        raise ModelNotReady(
            f"Version {number} of '{name}' has no list of layers. Publish it again."
        ) from None
    return LayersResponse(
        model=name, version=number, items=list(layers), totals=LayerTotals.of(layers)
    )

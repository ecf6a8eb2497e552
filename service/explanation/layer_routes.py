"""`/v1/models/{name}/layers`, `/v1/activations` and `/v1/filters`: what the layers see."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from contracts.errors import ModelNotReady
from contracts.inference.explanation import FiltersRequest, Layer
from contracts.inference.heatmap import ActivationsResponse, LayersResponse
from contracts.inference.manifest import MODEL_NAME
from contracts.jobs import Job
from contracts.queue.explain_messages import ActivationsAsk, Order
from models.explain.layers import read_layers
from models.rendering.colormaps import Colormap
from models.store.store import Store
from service.dependencies import ServicesDep
from service.explanation.activations import Activations
from service.explanation.filters import submit
from service.http import examples
from service.http.deadlines import Timed
from service.http.errors import problem_responses
from service.http.headers import Accepted, CreationKey
from service.inference.routes import BODY, PROBLEMS, ModelQuery

router = APIRouter(tags=["Explanation"])

_UNKNOWN = problem_responses("model_not_found", "version_not_found", "layer_not_found")


class ActivationsQuery(ModelQuery):
    """Which feature maps to show."""

    layer: Layer | None = Field(
        None, description="Left out, the one that heatmaps explain.", examples=["fire9_concat"]
    )
    channels: int = Field(25, ge=1, le=64, description="How many; no more than the layer has.")
    order: Order = Field(
        "strongest",
        description="`strongest` by mean activation, highest first; by `index`, or `random`.",
    )
    seed: int = Field(0, ge=0, le=2**31 - 1, description="For `random`.")
    colormap: Colormap = Field("viridis", description="From a map's lowest value to its highest.")


class LayersQuery(BaseModel):
    """Of which version."""

    model_config = ConfigDict(extra="forbid")

    version: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9_.-]{1,64}$",
        description="A version's number or an alias; left out, `champion`.",
    )


@router.post(
    "/v1/activations",
    operation_id="activations",
    summary="Show what the channels of a layer see",
    response_class=Response,
    responses={
        200: {
            "description": "A sheet of the maps, or the maps as JSON.",
            "model": ActivationsResponse,
            "content": {
                "image/png": {"schema": {"type": "string", "format": "binary"}},
                "application/json": {"example": examples.ACTIVATIONS},
            },
            "headers": {"X-Cache": examples.PICTURE_HEADERS["X-Cache"]},
        },
        **PROBLEMS,
        **_UNKNOWN,
    },
    openapi_extra=BODY,
)
async def activations(
    *,
    request: Request,
    query: Annotated[ActivationsQuery, Query()],
    deadline: Timed,
    kind: Accepted,
    services: ServicesDep,
) -> Response:
    """Show a layer's feature maps of one image.

    Each map has its own range of colors; one that is the same everywhere is marked as blank.
    """
    question = ActivationsAsk(
        layer=query.layer, channels=query.channels, order=query.order, seed=query.seed
    )
    return await Activations(
        services, request, question, query.model, query.version, query.colormap, kind, deadline
    ).answer()


@router.get(
    "/v1/models/{name}/layers",
    operation_id="list_layers",
    summary="List a network's layers",
    responses={
        200: examples.shown("Its layers, in the order of the pass forward.", examples.LAYERS),
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
    """The layers of a version; those that are `explainable` have maps to look at."""
    return await run_in_threadpool(_layers, services.store, name, query.version)


@router.post(
    "/v1/filters",
    operation_id="filters",
    summary="Show the patterns that excite filters most",
    status_code=202,
    response_model=Job,
    responses={
        202: examples.shown(
            "The job; its artifact `filters.png` is a sheet of the patterns.",
            examples.JOB | {"kind": "filters"},
        ),
        **problem_responses(
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
    *, body: FiltersRequest, services: ServicesDep, key: CreationKey = None
) -> JSONResponse:
    """Find, by gradient ascent from noise, what each filter of a layer responds to most."""
    job = await submit(body, key, services)
    return JSONResponse(job.model_dump(mode="json"), 202, {"Location": f"/v1/jobs/{job.id}"})


def _layers(store: Store, name: str, version: int | str | None) -> LayersResponse:
    number = store.resolve(name, version)
    try:
        layers = read_layers(store.path(name, number))
    except FileNotFoundError:
        raise ModelNotReady(
            f"Version {number} of '{name}' was made before layers were listed. Publish it anew."
        ) from None
    return LayersResponse(model=name, version=number, items=list(layers))

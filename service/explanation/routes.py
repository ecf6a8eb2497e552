"""`/v1/heatmap`: which parts of an image speak for a class."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response
from pydantic import Field

from contracts.errors import ValidationFailed
from contracts.inference.explanation import Layer, Method
from contracts.inference.heatmap import HeatmapResponse
from contracts.queue.explain_messages import PIXEL_METHODS, ExplainRequest
from models.rendering.colormaps import Colormap
from models.rendering.heatmap import HeatmapView, RenderOptions
from service.dependencies import ServicesDep
from service.explanation.heatmap import HeatmapHandler
from service.explanation.heatmap_response import HeatmapOptions
from service.http.deadlines import DeadlineDep
from service.http.errors import problem_responses
from service.http.headers import AcceptedType, JobKeyHeader, MediaType, PrefersAsync
from service.inference.routes import (
    BODY,
    DEFERRED,
    PROBLEMS,
    EmbedQuery,
    job_accepted,
    require_one_model,
)
from service.openapi import examples

router = APIRouter(tags=["Explanation"], dependencies=[Depends(require_one_model)])

_MAX_CLASSES = 16
ClassIndex = Annotated[int, Field(ge=0, le=1_000_000)]


class HeatmapQuery(EmbedQuery):
    """What to explain, how, and how to show it."""

    method: Method = Field(
        "grad_cam", description="How to compute it; docs/how-to/explain.md compares the methods."
    )
    layer: Layer | None = Field(
        None,
        description="The layer whose maps are weighed. The default is the last convolution.",
        examples=["fire9_concat"],
    )
    class_index: list[ClassIndex] = Field(
        [],
        max_length=_MAX_CLASSES,
        description="The class to explain. The default is the top prediction. Repeat the parameter "
        "for one heatmap for each class.",
    )
    alpha: float = Field(0.5, ge=0, le=1, description="Opacity of the heatmap over the image.")
    colormap: Colormap = Field("jet", description="The colors of the heatmap.")
    output: HeatmapView = Field("overlay", description="The heatmap over the image, or alone.")
    legend: bool = Field(False, description="Add a title (class, probability) and a color bar.")
    compact: bool = Field(
        False,
        description="Make an overlay's file a fifth to a half smaller, at three times the work. "
        "Always done by jobs and for images of more than two megapixels.",
    )
    metrics: bool = Field(
        False,
        description="Also measure deletion and insertion AUC, which runs the network many times. "
        "Shown in JSON.",
    )
    seed: int = Field(0, ge=0, le=2**31 - 1, description="For methods that draw random numbers.")


@router.post(
    "/v1/heatmap",
    operation_id="heatmap",
    summary="Explain a classification",
    response_class=Response,
    responses={
        200: {
            "description": "The overlay at the image's own size, or the grid as JSON.",
            "model": HeatmapResponse,
            "content": {
                "image/png": {"schema": {"type": "string", "format": "binary"}},
                "application/json": {"example": examples.HEATMAP},
            },
            "headers": examples.PNG_HEADERS,
        },
        202: DEFERRED,
        **PROBLEMS,
        **problem_responses("layer_not_found", "model_not_found", "version_not_found"),
    },
    openapi_extra=BODY,
)
async def heatmap(
    *,
    request: Request,
    query: Annotated[HeatmapQuery, Query()],
    deadline: DeadlineDep,
    media_type: AcceptedType,
    deferred: PrefersAsync,
    services: ServicesDep,
    key: JobKeyHeader = None,
) -> Response:
    """Show which parts of an image speak for a class.

    The heatmap covers what the network saw: with `resize=crop` the center, and the rest of the
    image stays plain. The response to several images is JSON.
    """
    handler = HeatmapHandler(services, request, _options(query, media_type), deadline)
    return job_accepted(await handler.submit_job(key)) if deferred else await handler.answer()


def _options(query: HeatmapQuery, media_type: MediaType) -> HeatmapOptions:
    if query.layer is not None and query.method in PIXEL_METHODS:
        raise ValidationFailed(f"{query.method} uses the pixels and no layer. Leave layer out.")
    return HeatmapOptions(
        ExplainRequest(
            method=query.method, layer=query.layer, metrics=query.metrics, seed=query.seed
        ),
        query.model,
        query.version,
        tuple(query.class_index),
        query.resize,
        RenderOptions(query.output, query.colormap, query.alpha, query.legend, query.compact),
        media_type,
    )

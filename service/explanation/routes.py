"""`/v1/heatmap`: why a network sees what it sees."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import Field

from contracts.errors import ValidationFailed
from contracts.inference.explanation import Layer, Method
from contracts.inference.heatmap import HeatmapResponse
from contracts.queue.explain_messages import PIXEL_METHODS, MapAsk
from models.rendering.colormaps import Colormap
from models.rendering.heatmap import Look, Shown
from service.dependencies import ServicesDep
from service.explanation.heatmap import Heatmaps
from service.explanation.heatmap_response import Wish
from service.http import examples
from service.http.deadlines import Timed
from service.http.errors import problem_responses
from service.http.headers import Accepted, Deferred, IdempotencyKey, Kind
from service.inference.routes import BODY, DEFERRED, PROBLEMS, EmbedQuery, accepted

router = APIRouter(tags=["Explanation"])

_MOST_CLASSES = 16
ClassIndex = Annotated[int, Field(ge=0, le=1_000_000)]


class HeatmapQuery(EmbedQuery):
    """What to explain, how, and how to show it."""

    method: Method = Field(
        "grad_cam", description="How the evidence is found; docs/how-to/explain.md compares them."
    )
    layer: Layer | None = Field(
        None,
        description="The layer whose maps are weighed; left out, the network's last convolution.",
        examples=["fire9_concat"],
    )
    class_index: list[ClassIndex] = Field(
        [],
        max_length=_MOST_CLASSES,
        description="The class to explain; left out, the top prediction. Repeat it for one map a "
        "class.",
    )
    alpha: float = Field(0.5, ge=0, le=1, description="Of the map over the picture.")
    colormap: Colormap = Field("jet", description="The map's colors.")
    output: Shown = Field("overlay", description="The map on the picture, or alone.")
    legend: bool = Field(False, description="Title with class and probability, and a color bar.")
    compact: bool = Field(
        False,
        description="Whether an overlay's file is made a fifth to a half smaller, at three times "
        "the work. Jobs, and pictures of over two megapixels, are.",
    )
    metrics: bool = Field(
        False,
        description="Also measure deletion and insertion AUC; runs the network many times. Shown "
        "in JSON.",
    )
    seed: int = Field(0, ge=0, le=2**31 - 1, description="For methods that draw at random.")


@router.post(
    "/v1/heatmap",
    operation_id="heatmap",
    summary="Show why a picture is of its class",
    response_class=Response,
    responses={
        200: {
            "description": "The overlay at the picture's own size, or the grid as JSON.",
            "model": HeatmapResponse,
            "content": {
                "image/png": {"schema": {"type": "string", "format": "binary"}},
                "application/json": {"example": examples.HEATMAP},
            },
            "headers": examples.PICTURE_HEADERS,
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
    deadline: Timed,
    kind: Accepted,
    deferred: Deferred,
    services: ServicesDep,
    key: IdempotencyKey = None,
) -> Response:
    """Show which parts of a picture speak for a class.

    The map covers what the network saw: with `resize=crop` the centre, and what lies outside
    stays plain. Several images are answered as JSON.
    """
    heatmaps = Heatmaps(services, request, _wish(query, kind), deadline)
    return accepted(await heatmaps.job(key)) if deferred else await heatmaps.answer()


def _wish(query: HeatmapQuery, kind: Kind) -> Wish:
    if query.layer is not None and query.method in PIXEL_METHODS:
        raise ValidationFailed(
            f"{query.method} looks at the pixels and at no layer. Leave layer out."
        )
    return Wish(
        MapAsk(method=query.method, layer=query.layer, metrics=query.metrics, seed=query.seed),
        query.model,
        query.version,
        tuple(query.class_index),
        query.resize,
        Look(query.output, query.colormap, query.alpha, query.legend, query.compact),
        kind,
    )

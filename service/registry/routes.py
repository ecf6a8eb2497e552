"""`/v1/models`: the models, and why some cannot be served."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, ConfigDict

from contracts.inference.registry import ModelDetail, ModelInfo
from contracts.pages import Page, PageCursor, PageLimit
from service.dependencies import ServicesDep
from service.http.body import JSON_TYPE
from service.http.errors import problem_responses
from service.http.parts import ResponseInParts
from service.openapi import examples
from service.protocols.availability import model_status

router = APIRouter(prefix="/v1/models", tags=["Models"])


class ModelsQuery(BaseModel):
    """The page."""

    model_config = ConfigDict(extra="forbid")

    limit: PageLimit = 50
    cursor: PageCursor = None


@router.get(
    "",
    operation_id="list_models",
    summary="List the models",
    response_model=Page[ModelInfo],
    responses={
        200: examples.json_response(
            "A page of models.", {"items": [examples.MODEL], "next_cursor": None}
        ),
        **problem_responses("validation_error"),
    },
)
async def list_models(query: Annotated[ModelsQuery, Query()], services: ServicesDep) -> Response:
    """All models, including those that cannot be served now, with the reason and the remedy."""
    content = services.workers.models_page(query.limit, query.cursor).encode()
    return ResponseInParts(content, media_type=JSON_TYPE)


@router.get(
    "/{name}",
    operation_id="get_model",
    summary="Get a model",
    responses={
        200: examples.json_response("The model.", examples.MODEL_DETAIL),
        **problem_responses("model_not_found", "validation_error"),
    },
)
async def get_model(
    name: Annotated[str, Path(description="A model's name.", examples=["squeezenet"])],
    services: ServicesDep,
) -> ModelDetail:
    """One model: its state, versions and operations.

    `model_version_status` says the same in the terms of TensorFlow Serving.
    """
    info = services.workers.model(name)
    status = model_status(services.workers, info, info.versions)
    return ModelDetail(**dict(info), model_version_status=status, ready=info.state == "ready")

"""`/v1/models`: what can be asked, and what is missing where something cannot."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field

from contracts.inference.registry import ModelDetail, ModelInfo
from contracts.pages import Page
from service.dependencies import ServicesDep
from service.http import examples
from service.http.errors import problem_responses
from service.queue.version_routing import model_named

router = APIRouter(prefix="/v1/models", tags=["Models"])


class ModelsQuery(BaseModel):
    """Which page of the models to list."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(50, ge=1, le=200, description="Models a page.")
    cursor: str = Field(
        "0", pattern="^[0-9]{1,9}$", description="`next_cursor` of the page before."
    )


@router.get(
    "",
    operation_id="list_models",
    summary="List the models",
    responses={
        200: examples.shown("A page of models.", {"items": [examples.MODEL], "next_cursor": None}),
        **problem_responses("validation_error"),
    },
)
async def list_models(
    query: Annotated[ModelsQuery, Query()], services: ServicesDep
) -> Page[ModelInfo]:
    """All models, also those that cannot serve now, with the reason and what helps."""
    return _page(services.presence.models(), query.limit, query.cursor)


@router.get(
    "/{name}",
    operation_id="get_model",
    summary="Look at a model",
    responses={
        200: examples.shown("The model.", examples.MODEL_DETAIL),
        **problem_responses("model_not_found", "validation_error"),
    },
)
async def get_model(
    name: Annotated[str, Path(description="A model's name.", examples=["squeezenet"])],
    services: ServicesDep,
) -> ModelDetail:
    """One model: its state, its versions and what it can be asked for.

    `model_version_status` says the same in the words of TensorFlow Serving.
    """
    return ModelDetail(**dict(model_named(services.presence, name)))


def _page(models: Sequence[ModelInfo], limit: int, cursor: str) -> Page[ModelInfo]:
    """The models from a position on; they are few, and their order is that of the settings."""
    start = int(cursor)
    end = start + limit
    return Page(items=list(models[start:end]), next_cursor=str(end) if end < len(models) else None)

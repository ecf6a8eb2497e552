"""`/v1/models/{name}/versions` and `/aliases`: what is in the store, and what of it answers."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from contracts.errors import VersionNotFound
from contracts.inference.manifest import ALIAS_NAME, MODEL_NAME, Manifest
from contracts.inference.registry import AliasRequest, ModelInfo
from models.store.downloads import Download, DownloadFormat, download
from service.auth import audit
from service.dependencies import Services, ServicesDep
from service.http import examples
from service.http.deadlines import Timed
from service.http.errors import problem_responses

router = APIRouter(prefix="/v1/models/{name}", tags=["Models"])

# What is left of the deadline for the answer itself.
_SPARE_SECONDS = 0.25

Name = Annotated[
    str, Path(description="A model's name.", pattern=MODEL_NAME, examples=["squeezenet"])
]
Number = Annotated[int, Path(description="A version's number.", ge=1, le=999_999_999, examples=[1])]
Alias = Annotated[str, Path(description="An alias.", pattern=ALIAS_NAME, examples=["champion"])]
_MISSING = problem_responses("model_not_found", "version_not_found", "validation_error")
_BUSY = problem_responses("dependency_unavailable")


class DownloadQuery(BaseModel):
    """In which format to download."""

    model_config = ConfigDict(extra="forbid")

    format: DownloadFormat = Field(
        "saved_model",
        description="`saved_model` (a zip), `keras`, `tflite`, `onnx` or `labels`. The first "
        "`tflite` or `onnx` of a version is converted while you wait.",
    )


@router.post(
    "/aliases",
    operation_id="set_alias",
    summary="Promote a version, or roll back",
    response_model=ModelInfo,
    responses={
        200: examples.shown("The alias stands, and its version answers.", examples.MODEL),
        202: {
            "model": ModelInfo,
            **examples.shown(
                "The alias stands, but no worker holds its version yet; `reason` says why. "
                "What answered before still does.",
                examples.MODEL
                | {"reason": "Version 2 is being loaded; version 1 answers."}
                | {"aliases": {"champion": 2}, "versions": [1, 2]},
            ),
        },
        **_MISSING,
        **_BUSY,
    },
)
async def set_alias(
    *,
    request: Request,
    name: Name,
    body: AliasRequest,
    deadline: Timed,
    services: ServicesDep,
    response: Response,
) -> ModelInfo:
    """Let an alias stand on a version; to roll back, name an older one.

    The answer comes when a worker has loaded and warmed that version, so the next request is
    answered by it; or when the deadline is near. No request fails meanwhile. Asking again changes
    nothing.
    """
    await run_in_threadpool(services.store.resolve, name, body.version)
    await run_in_threadpool(services.store.promote, name, body.version, body.alias)
    subject = f"{name}/{body.version} {body.alias}"
    await audit.done(request, services, "alias_set", subject)
    seconds = deadline.remaining - _SPARE_SECONDS
    if not await services.presence.until_served(name, body.version, seconds=seconds):
        response.status_code = 202
    return _info(services, name)


@router.delete(
    "/aliases/{alias}",
    operation_id="delete_alias",
    summary="Take an alias away",
    status_code=204,
    responses={**_MISSING, **_BUSY},
)
async def delete_alias(
    request: Request, name: Name, alias: Alias, services: ServicesDep
) -> Response:
    """The version stays in the store; workers drop it when no other alias stands on it."""
    aliases = await run_in_threadpool(services.store.aliases, name)
    if alias not in aliases:
        known = ", ".join(aliases) or "none"
        raise VersionNotFound(f"'{name}' has no alias '{alias}'. Aliases: {known}.")
    await run_in_threadpool(services.store.drop_alias, name, alias)
    await audit.done(request, services, "alias_deleted", f"{name} {alias}")
    await services.presence.refresh()
    return Response(status_code=204)


@router.get(
    "/versions/{version}",
    operation_id="get_version",
    summary="Look at a version",
    responses={200: examples.shown("Its manifest.", examples.MANIFEST), **_MISSING},
)
async def get_version(name: Name, version: Number, services: ServicesDep) -> Manifest:
    """What a version says of itself: network, parity, provenance, the hash of every file."""
    await run_in_threadpool(services.store.resolve, name, version)
    return await run_in_threadpool(services.store.manifest, name, version)


@router.delete(
    "/versions/{version}",
    operation_id="delete_version",
    summary="Delete a version",
    status_code=204,
    responses={**_MISSING, **_BUSY, **problem_responses("version_in_use")},
)
async def delete_version(
    request: Request, name: Name, version: Number, services: ServicesDep
) -> Response:
    """Remove a version for good; not while an alias stands on it. Its number never comes back."""
    await run_in_threadpool(services.store.resolve, name, version)
    await run_in_threadpool(services.store.delete, name, version)
    await audit.done(request, services, "version_deleted", f"{name}/{version}")
    await services.presence.refresh()
    return Response(status_code=204)


@router.get(
    "/versions/{version}/download",
    operation_id="download_version",
    summary="Download a version",
    response_class=Response,
    responses={
        200: {
            "description": "The file, streamed.",
            "headers": {
                "Content-Disposition": {
                    "description": "What to call it.",
                    "schema": {"type": "string"},
                }
            },
            "content": {
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
                "application/zip": {"schema": {"type": "string", "format": "binary"}},
                "application/json": {"example": [{"id": "n02391049", "label": "zebra"}]},
            },
        },
        **_MISSING,
        **problem_responses(
            *("model_not_ready", "no_worker", "dependency_unavailable", "deadline_exceeded")
        ),
    },
)
async def download_version(
    *,
    name: Name,
    version: Number,
    query: Annotated[DownloadQuery, Query()],
    deadline: Timed,
    services: ServicesDep,
) -> StreamingResponse:
    """Take a version home: uint8 pictures in, preprocessing inside, whatever runs it.

    A conversion that takes longer than the deadline goes on: 503 with Retry-After, and a later
    request finds the file.
    """
    await run_in_threadpool(services.store.resolve, name, version)
    if query.format in {"tflite", "onnx"}:
        seconds = deadline.remaining - _SPARE_SECONDS
        await services.conversions.until_made(name, version, query.format, seconds=seconds)
    file = await run_in_threadpool(download, services.store, name, version, query.format)
    return _streamed(file)


def _streamed(file: Download) -> StreamingResponse:
    headers: dict[str, str] = {"Content-Disposition": f'attachment; filename="{file.filename}"'}
    if file.size is not None:
        headers["Content-Length"] = str(file.size)
    return StreamingResponse(file.chunks, media_type=file.media_type, headers=headers)


def _info(services: Services, name: str) -> ModelInfo:
    found: Any = next((one for one in services.presence.models() if one.name == name), None)
    if not isinstance(found, ModelInfo):
        raise VersionNotFound(f"'{name}' was removed from the store meanwhile.")
    return found

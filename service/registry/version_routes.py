"""`/v1/models/{name}/versions` and `/aliases`: the versions in the store and which one serves."""

from contextlib import suppress
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from contracts.errors import ModelNotFound, VersionNotFound
from contracts.inference.manifest import ALIAS_NAME, MODEL_NAME
from contracts.inference.registry import AliasRequest, ModelInfo, VersionDetail
from contracts.wording import few
from models.faces.provenance import without_subjects
from models.store.derived import DERIVED_FORMATS
from models.store.downloads import DownloadFormat, download
from models.store.store import Store
from service.auth import audit
from service.auth.face_models import require_scope_for, require_scope_to_download
from service.auth.principal import principal_of
from service.dependencies import Services, ServicesDep
from service.http.deadlines import DeadlineDep
from service.http.errors import problem_responses
from service.http.files import FileContent, file_response, file_responses
from service.openapi import examples
from service.protocols.availability import model_status
from service.threads import run_in_threadpool

router = APIRouter(prefix="/v1/models/{name}", tags=["Models"])

# Reserved of the deadline for the response itself.
_SPARE_SECONDS = 0.25

Name = Annotated[
    str, Path(description="A model's name.", pattern=MODEL_NAME, examples=["squeezenet"])
]
Number = Annotated[int, Path(description="A version's number.", ge=1, le=999_999_999, examples=[1])]
Alias = Annotated[str, Path(description="An alias.", pattern=ALIAS_NAME, examples=["champion"])]
_MISSING = problem_responses("model_not_found", "version_not_found", "validation_error")
_BUSY = problem_responses("queue_full", "dependency_unavailable")


class DownloadQuery(BaseModel):
    """The format of the download."""

    model_config = ConfigDict(extra="forbid")

    format: DownloadFormat = Field(
        "saved_model",
        description="`saved_model` (a zip), `keras`, `keras_h5` (architecture and weights in "
        "Keras's older format), `weights_h5`, `architecture` (JSON), `tflite`, `onnx` or `labels`. "
        "`keras_h5`, `weights_h5`, `tflite` and `onnx` are converted during the first request.",
    )


@router.post(
    "/aliases",
    operation_id="set_alias",
    summary="Promote a version, or roll back",
    response_model=ModelInfo,
    responses={
        200: examples.json_response("The alias is set, and its version serves.", examples.MODEL),
        202: {
            "model": ModelInfo,
            **examples.json_response(
                "The alias is set, but no worker has loaded its version yet; `reason` says why. "
                "The previous version still serves.",
                examples.MODEL
                | {"reason": "Version 2 is being loaded; version 1 serves."}
                | {"aliases": {"champion": 2}, "versions": [1, 2]},
            ),
        },
        **_MISSING,
        **_BUSY,
        **problem_responses("conflict"),
    },
)
async def set_alias(
    *,
    request: Request,
    name: Name,
    body: AliasRequest,
    deadline: DeadlineDep,
    services: ServicesDep,
    response: Response,
) -> ModelInfo:
    """Point an alias to a version; to roll back, name an older one.

    The response comes when the workers have loaded and warmed up that version and every API process
    knows it, so that it answers the next request, or when the deadline is near. No request fails
    meanwhile. Repeating the request changes nothing. If the alias points to a version that
    recognizes people, the key also needs the scope `faces`. A model may have 32 aliases.
    """
    await run_in_threadpool(_require_scope, request, services.store, name, body.version)
    require = partial(_require_scope_of_holder, request, services.store, name)
    promote = partial(services.store.promote, check=require)
    await services.lock_waiting.run(
        name, promote, name, body.version, body.alias, seconds=deadline.remaining
    )
    subject = f"{name}/{body.version} {body.alias}"
    await audit.record(request, services, "alias_set", subject)
    seconds = deadline.remaining - _SPARE_SECONDS
    serves = await services.workers.until_served(name, body.version, seconds=seconds)
    known = await services.changes.announce("models", seconds=max(deadline.remaining, 0))
    if not (serves and known):
        response.status_code = 202
    return _info(services, name)


@router.delete(
    "/aliases/{alias}",
    operation_id="delete_alias",
    summary="Delete an alias",
    status_code=204,
    responses={**_MISSING, **_BUSY},
)
async def delete_alias(
    request: Request, name: Name, alias: Alias, services: ServicesDep
) -> Response:
    """The version stays in the store; workers unload it when no other alias points to it."""
    aliases = await run_in_threadpool(services.store.aliases, name)
    if alias not in aliases:
        raise VersionNotFound(f"'{name}' has no alias '{alias}'. Aliases: {few(aliases)}.")
    require = partial(_require_scope_of_holder, request, services.store, name)
    await services.lock_waiting.run(
        name, partial(services.store.drop_alias, check=require), name, alias
    )
    await audit.record(request, services, "alias_deleted", f"{name} {alias}")
    await services.changes.announce("models")
    return Response(status_code=204)


@router.get(
    "/versions/{version}",
    operation_id="get_version",
    summary="Get a version",
    responses={200: examples.json_response("Its manifest.", examples.VERSION_DETAIL), **_MISSING},
)
async def get_version(
    request: Request, name: Name, version: Number, services: ServicesDep
) -> VersionDetail:
    """The manifest: network, parity, provenance and the hash of every file.

    `model_version_status` is its state in the terms of TensorFlow Serving. The ids of the subjects
    that it was trained on are shown to keys with the scope `faces` only.
    """
    await run_in_threadpool(services.store.resolve, name, version)
    manifest = await run_in_threadpool(services.store.manifest, name, version)
    shown = manifest if principal_of(request).may("faces") else without_subjects(manifest)
    status = model_status(services.workers, _info(services, name), [version])
    return VersionDetail(**dict(shown), model_version_status=status)


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
    """Delete a version permanently, unless an alias points to it. Its number is not reused."""
    await run_in_threadpool(_require_scope, request, services.store, name, version)
    await services.lock_waiting.run(name, services.store.delete, name, version)
    await audit.record(request, services, "version_deleted", f"{name}/{version}")
    await services.changes.announce("models")
    return Response(status_code=204)


@router.get(
    "/versions/{version}/download",
    operation_id="download_version",
    summary="Download a version",
    response_class=Response,
    responses={
        **file_responses(
            "The file, streamed.",
            {
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
                "application/zip": {"schema": {"type": "string", "format": "binary"}},
                "application/json": {"example": [{"id": "n02391049", "label": "zebra"}]},
            },
        ),
        **_MISSING,
        **problem_responses(
            *("model_not_ready", "no_worker", "dependency_unavailable", "deadline_exceeded")
        ),
    },
)
async def download_version(
    *,
    request: Request,
    name: Name,
    version: Number,
    query: Annotated[DownloadQuery, Query()],
    deadline: DeadlineDep,
    services: ServicesDep,
) -> Response:
    """All formats but Keras's two take uint8 images and do their own preprocessing.

    `If-None-Match` with the `ETag` of an earlier response saves a download, `Range` resumes one.

    A conversion that takes longer than the deadline continues: the response is 503 with
    Retry-After, and a later request finds the file. A version that was trained on subjects needs
    the scope `faces` as well.
    """
    await run_in_threadpool(services.store.resolve, name, version)
    manifest = await run_in_threadpool(services.store.manifest, name, version)
    require_scope_to_download(principal_of(request), manifest)
    if query.format in DERIVED_FORMATS:
        seconds = deadline.remaining - _SPARE_SECONDS
        await services.conversions.until_made(name, version, query.format, seconds=seconds)
    file = await run_in_threadpool(download, services.store, name, version, query.format)
    return file_response(
        request,
        FileContent(file.size, f'"{file.fingerprint}"', file.read, seeks=file.seeks),
        media_type=file.media_type,
        headers={"Content-Disposition": f'attachment; filename="{file.filename}"'},
    )


def _require_scope(request: Request, store: Store, name: str, version: int) -> None:
    """Check that the key may change a version.

    Raises:
        Forbidden: It recognizes people and the key lacks the scope `faces`.
        ModelNotFound: There is no such model.
        VersionNotFound: It has no such version.
    """
    number = store.resolve(name, version)
    with suppress(VersionNotFound):  # damaged, and used by nobody; it can be deleted
        require_scope_for(principal_of(request), store.manifest(name, number))


def _require_scope_of_holder(request: Request, store: Store, name: str, holder: int | None) -> None:
    """As `_require_scope`, for the version that an alias is taken away from, if there is one."""
    with suppress(VersionNotFound):  # deleted or damaged, and used by nobody
        if holder is not None:
            _require_scope(request, store, name, holder)


def _info(services: Services, name: str) -> ModelInfo:
    try:
        return services.workers.model(name)
    except ModelNotFound:
        raise VersionNotFound(f"'{name}' was removed from the store in the meantime.") from None

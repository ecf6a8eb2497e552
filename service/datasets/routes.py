"""`/v1/datasets`: pictures with labels, sent to learn from."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from contracts.jobs import Job
from contracts.pages import Page
from contracts.training.datasets import DATASET_ID, DatasetFile, DatasetInfo, FileStatus
from models.datasets.layout import MOST_LABEL
from service.auth import audit
from service.datasets import upload
from service.datasets.upload import JSON_TYPE, AddQuery, CreateQuery
from service.dependencies import ServicesDep
from service.http import examples
from service.http.deadlines import Timed
from service.http.errors import problem_responses
from service.http.headers import CreationKey, Deferred
from service.http.uploads import FORM_TYPE, IMAGES_BODY

router = APIRouter(prefix="/v1/datasets", tags=["Data sets"])

_CACHED = "private, max-age=86400, immutable"

DatasetId = Annotated[
    str, Path(description="A dataset's id.", pattern=DATASET_ID, examples=[examples.DATASET["id"]])
]
FileId = Annotated[
    str,
    Path(
        description="A file's id.", pattern=r"^file_[0-9a-f]{24}$", examples=[examples.FILE["id"]]
    ),
]
_MISSING = problem_responses("dataset_not_found", "validation_error", "dependency_unavailable")


class PageQuery(BaseModel):
    """Which page."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(50, ge=1, le=200, description="Items a page.")
    cursor: str | None = Field(
        None, max_length=256, description="`next_cursor` of the page before."
    )


class FilesQuery(PageQuery):
    """Which files."""

    label: str | None = Field(
        None,
        max_length=MOST_LABEL,
        pattern=r"^[^\x00-\x1f]*$",
        description="Only those of this class.",
    )
    status: FileStatus | None = Field(None, description="Only those kept, or those left out.")


class Added(BaseModel):
    """What became of pictures that were added."""

    dataset: DatasetInfo
    files: list[DatasetFile]


@router.post(
    "",
    operation_id="create_dataset",
    summary="Upload a dataset",
    status_code=201,
    response_model=DatasetInfo,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                FORM_TYPE: {"schema": examples.ARCHIVE_FORM},
                JSON_TYPE: {
                    "schema": {"$ref": "#/components/schemas/NewDataset"},
                    "example": {"name": "pets"},
                },
            },
        }
    },
    responses={
        201: examples.shown("The dataset, with all that was left out.", examples.DATASET),
        202: {
            "model": Job,
            **examples.shown(
                "The archive has arrived; the job's result will be the dataset.",
                examples.JOB | {"kind": "dataset_import"},
            ),
            "headers": {
                "Location": {"description": "The job's address.", "schema": {"type": "string"}}
            },
        },
        **problem_responses(
            *("bad_request", "idempotency_conflict", "payload_too_large"),
            *("unsupported_media_type", "validation_error", "invalid_archive"),
            *("queue_full", "dependency_unavailable", "draining", "deadline_exceeded"),
        ),
    },
)
async def create_dataset(
    *,
    request: Request,
    query: Annotated[CreateQuery, Query()],
    key: CreationKey = None,
    deferred: Deferred,
    deadline: Timed,
    services: ServicesDep,
) -> JSONResponse:
    """Send an archive of class folders, or the name of a dataset that begins empty.

    The archive is a zip, tar or tar.gz of `cat/ dog/ …`, or of `train/ validation/ test/` with
    such folders inside. Without splits, each class is split by `validation`, `test` and `seed`.
    Every picture is decoded; what is none, a copy or hidden is left out and listed. A dishonest
    archive is refused as a whole. A large archive, or any with `Prefer: respond-async`, is taken
    in by a job whose result is the dataset.
    """
    made = await upload.create(
        request, query, key=key, deferred=deferred, deadline=deadline, services=services
    )
    if isinstance(made, Job):
        return JSONResponse(made.model_dump(mode="json"), 202, {"Location": f"/v1/jobs/{made.id}"})
    return JSONResponse(made, 201, {"Location": f"{router.prefix}/{made['id']}"})


@router.get(
    "",
    operation_id="list_datasets",
    summary="List datasets",
    responses={
        200: examples.shown(
            "A page of datasets, newest first.",
            {"items": [examples.DATASET], "next_cursor": None},
        ),
        **problem_responses("validation_error", "dependency_unavailable"),
    },
)
async def list_datasets(
    query: Annotated[PageQuery, Query()], services: ServicesDep
) -> Page[DatasetInfo]:
    """All datasets, newest first."""
    return await run_in_threadpool(
        services.datasets.rows.list, limit=query.limit, cursor=query.cursor
    )


@router.get(
    "/{dataset_id}",
    operation_id="get_dataset",
    summary="Look at a dataset",
    responses={200: examples.shown("The dataset.", examples.DATASET), **_MISSING},
)
async def get_dataset(dataset_id: DatasetId, services: ServicesDep) -> DatasetInfo:
    """Its classes, splits and warnings, and the first files that were left out."""
    return await run_in_threadpool(services.datasets.rows.get, dataset_id)


@router.delete(
    "/{dataset_id}",
    operation_id="delete_dataset",
    summary="Delete a dataset",
    status_code=204,
    responses={**_MISSING, **problem_responses("conflict")},
)
async def delete_dataset(
    request: Request, dataset_id: DatasetId, services: ServicesDep
) -> Response:
    """Remove a dataset and its pictures for good; not while a training uses it."""
    await run_in_threadpool(services.datasets.delete, dataset_id)
    await audit.done(request, services, "dataset_deleted", dataset_id)
    return Response(status_code=204)


@router.post(
    "/{dataset_id}/images",
    operation_id="add_images",
    summary="Add pictures to a class",
    status_code=201,
    response_model=Added,
    openapi_extra={"requestBody": IMAGES_BODY},
    responses={
        201: examples.shown(
            "The dataset as it is now, and what became of each picture.",
            {"dataset": examples.DATASET, "files": [examples.FILE]},
        ),
        **_MISSING,
        **problem_responses(
            *("bad_request", "conflict", "idempotency_conflict", "payload_too_large"),
            *("unsupported_media_type", "validation_error", "invalid_image", "image_too_large"),
            *("queue_full", "deadline_exceeded"),
        ),
    },
)
async def add_images(
    *,
    request: Request,
    dataset_id: DatasetId,
    query: Annotated[AddQuery, Query()],
    key: CreationKey = None,
    deadline: Timed,
    services: ServicesDep,
) -> JSONResponse:
    """Send pictures as for a classification; each is decoded and kept, or its fault is told.

    With one picture, its fault is the error. Without `split` the split of the class is drawn
    anew, so that the fractions hold.
    """
    body = await upload.add(
        request, dataset_id, query, key=key, deadline=deadline, services=services
    )
    return JSONResponse(body, 201)


@router.get(
    "/{dataset_id}/files",
    operation_id="list_files",
    summary="List the files of a dataset",
    responses={
        200: examples.shown(
            "A page of files, in the order in which they were sent.",
            {"items": [examples.FILE], "next_cursor": None},
        ),
        **_MISSING,
    },
)
async def list_files(
    dataset_id: DatasetId, query: Annotated[FilesQuery, Query()], services: ServicesDep
) -> Page[DatasetFile]:
    """Every file that was sent, what became of it, and why."""
    return await run_in_threadpool(
        services.datasets.rows.files,
        dataset_id,
        label=query.label,
        status=query.status,
        limit=query.limit,
        cursor=query.cursor,
    )


@router.get(
    "/{dataset_id}/files/{file_id}/thumbnail",
    operation_id="get_thumbnail",
    summary="See a picture of a dataset, small",
    response_class=Response,
    responses={
        200: {
            "description": "A JPEG of 160 x 160 pixels, the picture's middle.",
            "content": {
                "image/jpeg": {
                    "schema": {"type": "string", "format": "binary"},
                    "example": "the bytes of the JPEG",
                }
            },
        },
        **_MISSING,
        **problem_responses("dataset_not_found", "not_found", "deadline_exceeded", "queue_full"),
    },
)
async def get_thumbnail(
    dataset_id: DatasetId, file_id: FileId, deadline: Timed, services: ServicesDep
) -> Response:
    """The thumbnail of an admitted file; made when first asked for."""
    jpeg = await services.decoder.run(
        lambda: services.datasets.thumbnail(dataset_id, file_id),
        deadline_seconds=deadline.remaining,
    )
    return Response(jpeg, media_type="image/jpeg", headers={"Cache-Control": _CACHED})

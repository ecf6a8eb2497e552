"""`/v1/datasets`: labeled images to train on."""

import hashlib
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from contracts.jobs import Job
from contracts.names import composed
from contracts.pages import Page, PageCursor, PageLimit
from contracts.training.datasets import DATASET_ID, DatasetFile, DatasetInfo, FileStatus
from database.paging import Reserve
from models.datasets.layout import MAX_LABEL_LENGTH
from service.auth import audit
from service.datasets import upload, video
from service.datasets.upload import AddQuery, CreateQuery
from service.datasets.video import VideoQuery
from service.dependencies import Services, ServicesDep
from service.http.body import JSON_TYPE
from service.http.deadlines import DeadlineDep
from service.http.errors import problem_responses
from service.http.files import FileContent, file_response, file_responses
from service.http.headers import CreateKeyHeader, PrefersAsync
from service.http.large_responses import ReadingDep
from service.http.multipart import FORM_TYPE
from service.http.responses import LOCATION, job_response
from service.http.uploads import IMAGES_BODY
from service.openapi import examples
from service.threads import run_in_threadpool

router = APIRouter(prefix="/v1/datasets", tags=["Datasets"])

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
_BUSY = problem_responses("queue_full", "deadline_exceeded", "draining")


class PageQuery(BaseModel):
    """The page."""

    model_config = ConfigDict(extra="forbid")

    limit: PageLimit = 50
    cursor: PageCursor = None


class FilesQuery(PageQuery):
    """Filters and page of the list."""

    label: str | None = Field(
        None,
        max_length=MAX_LABEL_LENGTH,
        pattern=r"^[^\x00-\x1f]*$",
        description="Only files of this class.",
    )
    status: FileStatus | None = Field(
        None, description="Only files that were admitted, or only those that were left out."
    )


class Added(BaseModel):
    """The result of adding images."""

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
        201: examples.json_response(
            "The dataset, with the files that were left out.", examples.DATASET
        ),
        202: {
            "model": Job,
            **examples.json_response(
                "The archive was received; the job's result will be the dataset.",
                examples.JOB | {"kind": "dataset_import"},
            ),
            "headers": LOCATION,
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
    key: CreateKeyHeader = None,
    deferred: PrefersAsync,
    deadline: DeadlineDep,
    services: ServicesDep,
) -> JSONResponse:
    """Send an archive of class folders, or the name of a dataset that starts empty.

    The archive is a zip, tar or tar.gz of `cat/ dog/ …`, or of `train/ validation/ test/` with
    such folders inside. Without splits, each class is split by `validation`, `test` and `seed`.
    Every image is decoded; files that are no image, duplicates and hidden files are left out and
    listed. A malicious archive is refused as a whole. A large archive, or any with `Prefer:
    respond-async`, is imported by a job whose result is the dataset.
    """
    made = await upload.create(
        request, query, key=key, deferred=deferred, deadline=deadline, services=services
    )
    if isinstance(made, Job):
        return job_response(made)
    return JSONResponse(made, 201, {"Location": f"{router.prefix}/{made['id']}"})


@router.get(
    "",
    operation_id="list_datasets",
    summary="List datasets",
    response_model=Page[DatasetInfo],
    responses={
        200: examples.json_response(
            "A page of datasets, newest first.",
            {"items": [examples.DATASET], "next_cursor": None},
        ),
        **problem_responses("validation_error", "dependency_unavailable"),
        **_BUSY,
    },
)
async def list_datasets(
    query: Annotated[PageQuery, Query()], services: ServicesDep, reading: ReadingDep
) -> Response:
    """All datasets, newest first. A page of datasets with many classes ends early."""
    return await reading.respond(partial(_page, services, query))


def _page(services: Services, query: PageQuery, reserve: Reserve) -> str:
    rows = services.datasets.rows
    return rows.list(limit=query.limit, cursor=query.cursor, reserve=reserve).model_dump_json()


@router.get(
    "/{dataset_id}",
    operation_id="get_dataset",
    summary="Get a dataset",
    response_model=DatasetInfo,
    responses={200: examples.json_response("The dataset.", examples.DATASET), **_MISSING, **_BUSY},
)
async def get_dataset(
    dataset_id: DatasetId, services: ServicesDep, reading: ReadingDep
) -> Response:
    """The classes, splits and warnings, and the first files that were left out."""
    return await reading.respond(
        lambda reserve: services.datasets.rows.get(dataset_id, reserve).model_dump_json()
    )


@router.delete(
    "/{dataset_id}",
    operation_id="delete_dataset",
    summary="Delete a dataset",
    status_code=204,
    responses={**_MISSING, **problem_responses("conflict", "queue_full")},
)
async def delete_dataset(
    request: Request, dataset_id: DatasetId, services: ServicesDep
) -> Response:
    """Delete a dataset and its images permanently, unless a training uses it."""
    await services.lock_waiting.run(dataset_id, services.datasets.delete, dataset_id)
    await audit.record(request, services, "dataset_deleted", dataset_id)
    return Response(status_code=204)


@router.post(
    "/{dataset_id}/images",
    operation_id="add_images",
    summary="Add images to a class",
    status_code=201,
    response_model=Added,
    openapi_extra={"requestBody": IMAGES_BODY},
    responses={
        201: examples.json_response(
            "The dataset as it is now, and the result for each image.",
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
    key: CreateKeyHeader = None,
    deadline: DeadlineDep,
    services: ServicesDep,
) -> JSONResponse:
    """Send images as for a classification; each is decoded and stored, or reported as left out.

    With a single image, its error is the response. Without `split`, the class is split again at
    random, so that the fractions hold.
    """
    body = await upload.add(
        request, dataset_id, query, key=key, deadline=deadline, services=services
    )
    return JSONResponse(body, 201)


@router.post(
    "/{dataset_id}/videos",
    operation_id="add_video_frames",
    summary="Add frames of a video to a class",
    status_code=202,
    response_model=Job,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {FORM_TYPE: {"schema": examples.VIDEO_FORM}},
        }
    },
    responses={
        202: {
            **examples.json_response(
                "The job; its result says how many images were added.",
                examples.JOB | {"kind": "dataset_video"},
            ),
            "headers": LOCATION,
        },
        **_MISSING,
        **problem_responses(
            *("bad_request", "idempotency_conflict", "payload_too_large"),
            *("unsupported_media_type", "model_not_ready", "queue_full", "deadline_exceeded"),
        ),
    },
)
async def add_video_frames(
    *,
    request: Request,
    dataset_id: DatasetId,
    query: Annotated[VideoQuery, Query()],
    key: CreateKeyHeader = None,
    deadline: DeadlineDep,
    services: ServicesDep,
) -> JSONResponse:
    """Send a video, as the field `video`; a job takes images from it and adds them to a class.

    The images are added together at the end, or none of them. The job's `result` has the dataset,
    the number of images `added`, and the `frames` that were `read` and `left_out` by reason.
    """
    job = await video.submit(
        request, dataset_id, query, key=key, deadline=deadline, services=services
    )
    return job_response(job)


@router.get(
    "/{dataset_id}/files",
    operation_id="list_files",
    summary="List the files of a dataset",
    responses={
        200: examples.json_response(
            "A page of files, in the order in which they were sent.",
            {"items": [examples.FILE], "next_cursor": None},
        ),
        **_MISSING,
    },
)
async def list_files(
    dataset_id: DatasetId, query: Annotated[FilesQuery, Query()], services: ServicesDep
) -> Page[DatasetFile]:
    """Every file that was sent, and whether and why it was left out."""
    return await run_in_threadpool(
        services.datasets.rows.files,
        dataset_id,
        label=None if query.label is None else composed(query.label),
        status=query.status,
        limit=query.limit,
        cursor=query.cursor,
    )


@router.get(
    "/{dataset_id}/files/{file_id}/thumbnail",
    operation_id="get_thumbnail",
    summary="Get a thumbnail",
    response_class=Response,
    responses={
        **file_responses(
            "A JPEG of 160 x 160 pixels, the center of the image.",
            {
                "image/jpeg": {
                    "schema": {"type": "string", "format": "binary"},
                    "example": "the bytes of the JPEG",
                }
            },
            is_named=False,
        ),
        **_MISSING,
        **problem_responses("dataset_not_found", "not_found", "deadline_exceeded", "queue_full"),
    },
)
async def get_thumbnail(
    *,
    request: Request,
    dataset_id: DatasetId,
    file_id: FileId,
    deadline: DeadlineDep,
    services: ServicesDep,
) -> Response:
    """The thumbnail of an image, also of one that was left out, if it can be read."""
    jpeg = await services.decoder.run_image(
        partial(services.datasets.thumbnail, dataset_id, file_id),
        deadline_seconds=deadline.remaining,
    )
    content = FileContent.of(jpeg, f'"{hashlib.sha256(jpeg).hexdigest()[:32]}"')
    return file_response(
        request, content, media_type="image/jpeg", headers={"Cache-Control": _CACHED}
    )

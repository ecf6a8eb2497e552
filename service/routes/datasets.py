"""`/v1/datasets`: pictures with labels, sent to learn from."""

import hashlib
import json
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from contracts.datasets import (
    DATASET_ID,
    MOST_NAME,
    DatasetFile,
    DatasetInfo,
    FileStatus,
    NewDataset,
    SplitName,
)
from contracts.errors import (
    DeadlineExceeded,
    OpsinError,
    PayloadTooLarge,
    UnsupportedMediaType,
    ValidationFailed,
)
from contracts.pages import Page
from database.idempotency import IdempotencyKey as Asked
from models.datasets.layout import MOST_LABEL
from models.datasets.library import NewPicture
from models.datasets.splitting import Fractions
from service import examples
from service.archive_form import ArchiveForm
from service.body import read_body
from service.deadlines import HEADER, Deadline, Timed
from service.preferences import CreationKey
from service.problems import problem_responses
from service.services import Open, Services
from service.uploads import FORM_TYPE, IMAGES_BODY, Upload, read_uploads, shown_name

router = APIRouter(prefix="/v1/datasets", tags=["Data sets"])

JSON_TYPE = "application/json"
_MOST_JSON = 64 * 1024
_ENDINGS = (".zip", ".tar.gz", ".tgz", ".tar")
_CACHED = "private, max-age=86400, immutable"

DatasetId = Annotated[
    str, Path(description="A data set's id.", pattern=DATASET_ID, examples=[examples.DATASET["id"]])
]
FileId = Annotated[
    str,
    Path(
        description="A file's id.", pattern=r"^file_[0-9a-f]{24}$", examples=[examples.FILE["id"]]
    ),
]
_MISSING = problem_responses("dataset_not_found", "validation_error", "dependency_unavailable")


class CreateQuery(BaseModel):
    """How to split what comes without splits."""

    model_config = ConfigDict(extra="forbid")

    validation: float = Field(
        0.15, ge=0, le=0.9, description="The part of each class that is for validation."
    )
    test: float = Field(0.15, ge=0, le=0.9, description="The part of each class for the test.")
    seed: int = Field(0, ge=0, le=2**31 - 1, description="Another seed, another split.")

    @model_validator(mode="after")
    def _leaves_some(self) -> "CreateQuery":
        if self.validation + self.test > 0.95:
            raise ValueError("validation and test together leave too little to learn from")
        return self


class AddQuery(BaseModel):
    """Where the pictures belong."""

    model_config = ConfigDict(extra="forbid")

    label: str = Field(
        min_length=1, max_length=MOST_LABEL, description="Their class.", examples=["cat"]
    )
    split: SplitName | None = Field(None, description="Their split; left out, it is drawn.")


class PageQuery(BaseModel):
    """Which page."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(50, ge=1, le=200, description="Items a page.")
    cursor: str | None = Field(
        None, max_length=256, description="`next_cursor` of the page before."
    )


class FilesQuery(PageQuery):
    """Which files."""

    label: str | None = Field(None, max_length=MOST_LABEL, description="Only those of this class.")
    status: FileStatus | None = Field(None, description="Only those kept, or those left out.")


class Added(BaseModel):
    """What became of pictures that were added."""

    dataset: DatasetInfo
    files: list[DatasetFile]


@router.post(
    "",
    operation_id="create_dataset",
    summary="Upload a data set",
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
        201: examples.shown("The data set, with all that was left out.", examples.DATASET),
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
    deadline: Timed,
    services: Open,
) -> JSONResponse:
    """Send an archive of class folders, or the name of a data set that begins empty.

    The archive is a zip, tar or tar.gz of `cat/ dog/ …`, or of `train/ validation/ test/` with
    such folders inside. Without splits, each class is split by `validation`, `test` and `seed`.
    Every picture is decoded; what is none, a copy or hidden is left out and listed. A dishonest
    archive is refused as a whole. Allow a large one more time with `X-Timeout-Ms`.
    """
    kind = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind == JSON_TYPE:
        made = await _begin_empty(request, query, key, deadline, services)
    elif kind == FORM_TYPE:
        made = await _take_archive(request, query, key, deadline, services)
    else:
        raise UnsupportedMediaType(f"Set Content-Type to {FORM_TYPE} or {JSON_TYPE}.")
    return JSONResponse(made, 201, {"Location": f"{router.prefix}/{made['id']}"})


async def _begin_empty(
    request: Request, query: CreateQuery, key: str | None, deadline: Deadline, services: Services
) -> dict[str, Any]:
    async with deadline.enforced():
        refusal = PayloadTooLarge(f"The JSON may have {_MOST_JSON} bytes.")
        body = await read_body(request, _MOST_JSON, refusal)
    try:
        name = _checked_name(NewDataset.model_validate_json(body).name)
    except ValidationError:
        raise ValidationFailed('Send {"name": "…"}, a name of 1 to 100 characters.') from None
    asked = _asked(key, name, query, "")
    return await run_in_threadpool(
        services.datasets.create, name, None, _fractions(query), told=_until(deadline), asked=asked
    )


async def _take_archive(
    request: Request, query: CreateQuery, key: str | None, deadline: Deadline, services: Services
) -> dict[str, Any]:
    library = services.datasets.library
    with services.datasets.place():
        staging = library.staging()
        folder = await run_in_threadpool(staging.__enter__)
        try:
            async with deadline.enforced():
                form = ArchiveForm(
                    request.headers["Content-Type"], limit=library.limits.archive_bytes
                )
                declared = int(request.headers.get("Content-Length", "0"))
                await run_in_threadpool(library.limits.require_room, folder, declared)
                await form.save(request.stream(), folder / "archive")
            name = _name_of(form)
            return await run_in_threadpool(
                services.datasets.create,
                name,
                folder / "archive",
                _fractions(query),
                told=_until(deadline),
                asked=_asked(key, name, query, form.digest.hexdigest()),
            )
        finally:
            await run_in_threadpool(staging.__exit__, None, None, None)


@router.get(
    "",
    operation_id="list_datasets",
    summary="List data sets",
    responses={
        200: examples.shown(
            "A page of data sets, newest first.",
            {"items": [examples.DATASET], "next_cursor": None},
        ),
        **problem_responses("validation_error", "dependency_unavailable"),
    },
)
async def list_datasets(query: Annotated[PageQuery, Query()], services: Open) -> Page[DatasetInfo]:
    """All data sets, newest first."""
    return await run_in_threadpool(
        services.datasets.rows.list, limit=query.limit, cursor=query.cursor
    )


@router.get(
    "/{dataset_id}",
    operation_id="get_dataset",
    summary="Look at a data set",
    responses={200: examples.shown("The data set.", examples.DATASET), **_MISSING},
)
async def get_dataset(dataset_id: DatasetId, services: Open) -> DatasetInfo:
    """Its classes, splits and warnings, and the first files that were left out."""
    return await run_in_threadpool(services.datasets.rows.get, dataset_id)


@router.delete(
    "/{dataset_id}",
    operation_id="delete_dataset",
    summary="Delete a data set",
    status_code=204,
    responses={**_MISSING, **problem_responses("conflict")},
)
async def delete_dataset(dataset_id: DatasetId, services: Open) -> Response:
    """Remove a data set and its pictures for good; not while a training uses it."""
    await run_in_threadpool(services.datasets.delete, dataset_id)
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
            "The data set as it is now, and what became of each picture.",
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
    services: Open,
) -> JSONResponse:
    """Send pictures as for a classification; each is decoded and kept, or its fault is told.

    With one picture, its fault is the error. Without `split` the split of the class is drawn
    anew, so that the fractions hold.
    """
    label = _checked_label(query.label)
    await run_in_threadpool(services.datasets.rows.get, dataset_id)
    with services.datasets.place():
        async with deadline.enforced():
            uploads = await read_uploads(request, services.settings)
        pictures = [_picture(one, number) for number, one in enumerate(uploads, 1)]
        asked = _asked_to_add(key, dataset_id, label, query.split, pictures)
        body = await run_in_threadpool(
            services.datasets.add, dataset_id, pictures, label, query.split, asked=asked
        )
    return JSONResponse(body, 201)


@router.get(
    "/{dataset_id}/files",
    operation_id="list_files",
    summary="List the files of a data set",
    responses={
        200: examples.shown(
            "A page of files, in the order in which they were sent.",
            {"items": [examples.FILE], "next_cursor": None},
        ),
        **_MISSING,
    },
)
async def list_files(
    dataset_id: DatasetId, query: Annotated[FilesQuery, Query()], services: Open
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
    summary="See a picture of a data set, small",
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
    dataset_id: DatasetId, file_id: FileId, deadline: Timed, services: Open
) -> Response:
    """The thumbnail of an admitted file; made when first asked for."""
    jpeg = await services.decoder.run(
        lambda: services.datasets.thumbnail(dataset_id, file_id),
        deadline_seconds=deadline.remaining,
    )
    return Response(jpeg, media_type="image/jpeg", headers={"Cache-Control": _CACHED})


def _until(deadline: Deadline) -> Any:
    """Ends an admission at the first file after the deadline."""

    def told(done: int, _path: str) -> None:
        if deadline.remaining <= 0:
            raise DeadlineExceeded(
                f"{done} files were read within {deadline.milliseconds} ms, and nothing was kept. "
                f"Allow more time with {HEADER}, or send a smaller archive."
            )

    return told


def _fractions(query: CreateQuery) -> Fractions:
    return Fractions(query.validation, query.test, query.seed)


def _name_of(form: ArchiveForm) -> str:
    if form.name is not None:
        return _checked_name(form.name)
    name = shown_name(form.filename) or "archive"
    for ending in _ENDINGS:
        name = name.removesuffix(ending)
    return _checked_name(name[:MOST_NAME] or "archive")


def _checked_name(name: str) -> str:
    plain = name.strip()
    if not plain or len(plain) > MOST_NAME or not plain.isprintable():
        raise ValidationFailed("A data set's name has 1 to 100 printable characters.")
    return plain


def _checked_label(label: str) -> str:
    if label != label.strip() or not label.isprintable() or set("/\\") & set(label):
        raise ValidationFailed("A label is printable, without slashes and spaces at its ends.")
    if label.startswith("."):
        raise ValidationFailed("A label does not begin with a dot.")
    return label


def _picture(upload: Upload, number: int) -> NewPicture:
    if isinstance(upload.data, OpsinError):
        raise upload.data
    return NewPicture(upload.name or f"picture-{number}", upload.data)


def _asked(key: str | None, name: str, query: CreateQuery, archive: str) -> Asked | None:
    if key is None:
        return None
    told = json.dumps([name, query.model_dump(), archive])
    return Asked(key, "dataset", hashlib.sha256(told.encode()).hexdigest())


def _asked_to_add(
    key: str | None, dataset_id: str, label: str, split: str | None, pictures: list[NewPicture]
) -> Asked | None:
    if key is None:
        return None
    digest = hashlib.sha256(json.dumps([label, split]).encode())
    for picture in pictures:
        digest.update(json.dumps([picture.name, len(picture.data)]).encode())
        digest.update(picture.data)
    return Asked(key, f"images of {dataset_id}", digest.hexdigest())

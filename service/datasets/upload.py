"""Reads what a request sends for a dataset: an archive, a name or images, within its deadline.

The routes name paths and responses; this module reads and checks the body and passes it on.
"""

import codecs
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.concurrency import contextmanager_in_threadpool
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from contracts.errors import (
    DeadlineExceeded,
    OpsinError,
    PayloadTooLarge,
    UnsupportedMediaType,
    ValidationFailed,
)
from contracts.jobs import Job
from contracts.names import composed, is_printable
from contracts.settings import Settings
from contracts.training.datasets import MAX_NAME_LENGTH, LabelSource, NewDataset, SplitName
from database.idempotency import IdempotencyKey
from database.installation import require_mounted
from models.datasets.addition import NewImage, NewImages
from models.datasets.admission import ImportProgress
from models.datasets.archives.limits import MIB, Limits, disk_full
from models.datasets.archives.name_encoding import Naming, checked_encoding
from models.datasets.import_job import ARCHIVE
from models.datasets.layout import MAX_LABEL_LENGTH
from models.datasets.splitting import Fractions
from service.auth.principal import quota_key
from service.dependencies import Services
from service.http.body import (
    FORM_OVERHEAD,
    JSON_TYPE,
    content_type_of,
    declared_length,
    is_json,
    read_body,
)
from service.http.deadlines import HEADER, Deadline
from service.http.multipart import FORM_TYPE, FieldSpec, Form, MultipartReader, how_to_send
from service.http.uploads import Upload, display_name, read_uploads
from service.threads import run_in_threadpool

_MAX_JSON_BYTES = 64 * 1024
_MAX_NAME_BYTES = 1024
_CHECKED_BYTES = 16 * MIB  # of a body, between two looks at the disk
_NAME = "name"
_ARCHIVE_SUFFIXES = (".zip", ".tar.gz", ".tgz", ".tar")


class CreateQuery(BaseModel):
    """How to split an upload without splits."""

    model_config = ConfigDict(extra="forbid")

    validation: float = Field(
        0.15, ge=0, le=0.9, description="The fraction of each class for validation."
    )
    test: float = Field(0.15, ge=0, le=0.9, description="The fraction of each class for testing.")
    seed: int = Field(0, ge=0, le=2**31 - 1, description="Each seed gives another split.")
    name_encoding: str | None = Field(
        None,
        max_length=40,
        description=(
            "The encoding of file names, and of tables of labels, that do not say it, such as gbk "
            "or cp932; guessed if omitted."
        ),
        examples=["gbk"],
    )

    labels_from: LabelSource = Field(
        "folders",
        description=(
            "Whether the folders are named after the classes, or the files, as in cat.12.jpg."
        ),
    )

    @field_validator("name_encoding")
    @classmethod
    def _known_encoding(cls, value: str | None) -> str | None:
        try:
            return None if value is None else checked_encoding(value)
        except ValidationFailed as error:
            raise ValueError(error.detail) from None

    def parameters(self) -> dict[str, Any]:
        """What was asked for; the same as in earlier releases unless newer options are used."""
        newer = {"labels_from"} if self.labels_from == "folders" else set()
        return self.model_dump(exclude_none=True, exclude=newer)

    @model_validator(mode="after")
    def _leaves_training_images(self) -> "CreateQuery":
        if self.validation + self.test > 0.95:
            raise ValueError("validation and test together leave too little to learn from")
        return self


class AddQuery(BaseModel):
    """The class and split of added images."""

    model_config = ConfigDict(extra="forbid")

    label: str = Field(
        min_length=1, max_length=MAX_LABEL_LENGTH, description="Their class.", examples=["cat"]
    )
    split: SplitName | None = Field(None, description="Their split; drawn at random if omitted.")


async def create(
    request: Request,
    query: CreateQuery,
    *,
    key: str | None,
    deferred: bool,
    deadline: Deadline,
    services: Services,
) -> dict[str, Any] | Job:
    """Make a dataset of the request's body, or a job that will.

    Args:
        request: The request, its body unread.
        query: How to split it.
        key: The client's `Idempotency-Key`, if it sent one.
        deferred: Whether to make a job; a large archive becomes one in any case.
        deadline: For the upload and, without a job, the admission.
        services: The running service.

    Returns:
        The `DatasetInfo` as JSON, or the job.

    Raises:
        OpsinError: As documented for the route. Nothing is stored.
        ClientDisconnect: The client hung up.
    """
    content_type = content_type_of(request)
    if is_json(content_type):
        return await _create_empty(request, query, key, deadline, services)
    if content_type == FORM_TYPE:
        is_job = deferred or declared_length(request) >= _largest_at_once(services.settings)
        if is_job:  # before gigabytes are read
            client = quota_key(request.scope)
            await services.job_queue.require_room_unread("dataset_import", key, client)
        async with _uploaded(request, deadline, services) as (form, path):
            return await _create_from(
                form,
                path,
                query,
                key=key,
                client=quota_key(request.scope),
                deferred=deferred,
                deadline=deadline,
                services=services,
            )
    raise UnsupportedMediaType(
        f'{how_to_send([ARCHIVE])} {{"name": "…"}} as {JSON_TYPE} makes an empty dataset.'
    )


async def add(
    request: Request,
    dataset_id: str,
    query: AddQuery,
    *,
    key: str | None,
    deadline: Deadline,
    services: Services,
) -> dict[str, Any]:
    """Add the images of the request's body to a dataset.

    Returns:
        ``{"dataset", "files"}`` as JSON.

    Raises:
        OpsinError: As documented for the route.
        ClientDisconnect: The client hung up.
    """
    label = checked_label(query.label)
    await run_in_threadpool(services.datasets.rows.require, dataset_id)
    with services.datasets.upload_slot(quota_key(request.scope)):
        async with deadline.enforced():
            uploads = await read_uploads(request, services.settings)
        images = [_image(upload, number) for number, upload in enumerate(uploads, 1)]
        idempotency = await run_in_threadpool(
            _add_idempotency, key, dataset_id, label, query.split, images
        )
        add_images = partial(services.datasets.add, idempotency=idempotency, check=deadline.require)
        return await services.lock_waiting.run(
            dataset_id,
            add_images,
            dataset_id,
            NewImages(images, label, query.split),
            seconds=deadline.remaining,
        )


async def _create_empty(
    request: Request, query: CreateQuery, key: str | None, deadline: Deadline, services: Services
) -> dict[str, Any]:
    async with deadline.enforced():
        refusal = PayloadTooLarge(f"The JSON may have {_MAX_JSON_BYTES} bytes.")
        body = await read_body(request, _MAX_JSON_BYTES, refusal)
    try:
        name = _checked_name(
            NewDataset.model_validate_json(body.removeprefix(codecs.BOM_UTF8)).name
        )
    except ValidationError:
        raise ValidationFailed('Send {"name": "…"}, a name of 1 to 100 characters.') from None
    return await run_in_threadpool(
        services.datasets.create,
        name,
        None,
        _fractions(query),
        progress=_deadline_check(deadline),
        idempotency=_create_idempotency(key, name, query, ""),
    )


def _largest_at_once(settings: Settings) -> int:
    """The length of a body whose archive surely becomes a job."""
    return settings.dataset_job_bytes + FORM_OVERHEAD


@asynccontextmanager
async def _uploaded(
    request: Request, deadline: Deadline, services: Services
) -> AsyncIterator[tuple[Form, Path]]:
    """The form of a request, and the file that holds its archive until the block ends."""
    store = services.datasets.store
    with services.datasets.upload_slot(quota_key(request.scope)):
        await run_in_threadpool(require_mounted, store.home)
        async with contextmanager_in_threadpool(store.staging()) as folder:
            path = folder / ARCHIVE
            async with deadline.enforced():
                reader = MultipartReader(
                    request.headers["Content-Type"],
                    _fields(path, store.limits.archive_bytes),
                    hint="Options, such as ?validation=0.2, belong in the query of the URL.",
                )
                length = declared_length(request)
                await run_in_threadpool(store.limits.require_room, folder, length)
                try:
                    form = await reader.read(
                        _while_there_is_room(request.stream(), store.limits, folder)
                    )
                except OSError as error:
                    raise disk_full() from error
                if ARCHIVE not in form.parts:
                    raise ValidationFailed(
                        f"The form holds no archive; send it as the field '{ARCHIVE}'."
                    )
            yield form, path


async def _while_there_is_room(
    stream: AsyncIterator[bytes], limits: Limits, folder: Path
) -> AsyncIterator[bytes]:
    """The stream, as long as the disk keeps the room that others need.

    The length of a body that is sent in chunks or compressed is not known before its end, and a
    full disk stops everybody: ten megabytes of gzip become two gigabytes.

    Raises:
        DiskUnusable: It does not.
    """
    unchecked = 0
    async for chunk in stream:
        unchecked += len(chunk)
        if unchecked >= _CHECKED_BYTES:
            await run_in_threadpool(limits.require_room, folder, 0)
            unchecked = 0
        yield chunk


def _fields(path: Path, limit: int) -> dict[str, FieldSpec]:
    archive = PayloadTooLarge(f"An archive may have {limit:,} bytes. Split it into several.")
    name = ValidationFailed(f"'{_NAME}' may have {MAX_NAME_LENGTH} characters.")
    return {
        ARCHIVE: FieldSpec(limit, path=path, too_large=archive),
        _NAME: FieldSpec(_MAX_NAME_BYTES, too_large=name),
    }


async def _create_from(
    form: Form,
    path: Path,
    query: CreateQuery,
    *,
    key: str | None,
    client: str,
    deferred: bool,
    deadline: Deadline,
    services: Services,
) -> dict[str, Any] | Job:
    part, name = form.parts[ARCHIVE][0], _name_of(form)
    idempotency = _create_idempotency(key, name, query, part.sha256.hexdigest())
    if idempotency and (earlier := await run_in_threadpool(_earlier, idempotency, services)):
        return earlier
    if deferred or part.size >= services.settings.dataset_job_bytes:
        return await services.job_queue.submit_work(
            "dataset_import",
            {"name": name, **query.parameters()},
            inputs={ARCHIVE: path},
            idempotency=(idempotency.key, idempotency.digest) if idempotency else None,
            client=client,
        )
    return await run_in_threadpool(
        services.datasets.create,
        name,
        path,
        _fractions(query),
        progress=_deadline_check(deadline),
        idempotency=idempotency,
        naming=Naming(query.name_encoding, query.labels_from),
    )


def _earlier(idempotency: IdempotencyKey, services: Services) -> dict[str, Any] | Job | None:
    """The response to the first request with that key, whether it was deferred or not."""
    if earlier := services.datasets.rows.stored_response(idempotency):
        return earlier.body
    earlier = services.datasets.rows.stored_response(replace(idempotency, scope="dataset_import"))
    return Job.model_validate(earlier.body) if earlier else None


def _deadline_check(deadline: Deadline) -> ImportProgress:
    """Ends an admission at the first file after the deadline."""

    def check(done: int, _path: str) -> None:
        if deadline.remaining <= 0:
            raise DeadlineExceeded(
                f"{done} files were read within {deadline.milliseconds} ms; nothing was stored. "
                f"Allow more time with {HEADER}, or send a smaller archive."
            )

    return check


def _fractions(query: CreateQuery) -> Fractions:
    return Fractions(query.validation, query.test, query.seed)


def _name_of(form: Form) -> str:
    if _NAME in form.parts:
        return _checked_name(form.parts[_NAME][0].data.decode(errors="replace"))
    name = display_name(form.parts[ARCHIVE][0].filename) or "archive"
    for suffix in _ARCHIVE_SUFFIXES:
        name = name.removesuffix(suffix)
    return _checked_name(name[:MAX_NAME_LENGTH] or "archive")


def _checked_name(name: str) -> str:
    stripped = composed(name).strip()
    if len(stripped) > MAX_NAME_LENGTH or not is_printable(stripped):
        raise ValidationFailed("A dataset's name has 1 to 100 printable characters.")
    return stripped


def checked_label(label: str) -> str:
    """The name of a class as it is stored.

    Raises:
        ValidationFailed: It cannot be one.
    """
    if label != label.strip() or not is_printable(label) or set("/\\") & set(label):
        raise ValidationFailed(
            "A label is printable and has no slashes and no spaces at its start or end."
        )
    if label.startswith("."):
        raise ValidationFailed("A label does not begin with a dot.")
    label = composed(label)  # which can be longer
    if len(label) > MAX_LABEL_LENGTH:
        raise ValidationFailed(f"A label may have {MAX_LABEL_LENGTH} characters, composed.")
    return label


def _image(upload: Upload, number: int) -> NewImage:
    if isinstance(upload.data, OpsinError):
        raise upload.data
    return NewImage(upload.name or f"picture-{number}", upload.data)


def _create_idempotency(
    key: str | None, name: str, query: CreateQuery, sha256: str
) -> IdempotencyKey | None:
    if key is None:
        return None
    content = json.dumps([name, query.parameters(), sha256])
    return IdempotencyKey(key, "dataset", hashlib.sha256(content.encode()).hexdigest())


def _add_idempotency(
    key: str | None, dataset_id: str, label: str, split: str | None, images: list[NewImage]
) -> IdempotencyKey | None:
    if key is None:
        return None
    digest = hashlib.sha256(json.dumps([label, split]).encode())
    for image in images:
        digest.update(json.dumps([image.name, len(image.data)]).encode())
        digest.update(image.data)
    return IdempotencyKey(key, f"images of {dataset_id}", digest.hexdigest())

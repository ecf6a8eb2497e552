"""What a request brings for a dataset: an archive, a name, or pictures, read within its deadline.

The routes name the address and the answer; here the body is read, checked and handed on.
"""

import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.concurrency import contextmanager_in_threadpool, run_in_threadpool
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from contracts.errors import (
    DeadlineExceeded,
    OpsinError,
    PayloadTooLarge,
    UnsupportedMediaType,
    ValidationFailed,
)
from contracts.jobs import Job
from contracts.training.datasets import MOST_NAME, NewDataset, SplitName
from database.idempotency import IdempotencyKey as Asked
from models.datasets.admission import Told
from models.datasets.import_job import ARCHIVE
from models.datasets.layout import MOST_LABEL
from models.datasets.library import NewPicture
from models.datasets.splitting import Fractions
from service.auth.principal import payer_of
from service.datasets.archive_form import ArchiveForm
from service.dependencies import Services
from service.http.body import read_body
from service.http.deadlines import HEADER, Deadline
from service.http.uploads import FORM_TYPE, Upload, read_uploads, shown_name

JSON_TYPE = "application/json"
_MOST_JSON = 64 * 1024
_ENDINGS = (".zip", ".tar.gz", ".tgz", ".tar")


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


async def create(
    request: Request,
    query: CreateQuery,
    *,
    key: str | None,
    deferred: bool,
    deadline: Deadline,
    services: Services,
) -> dict[str, Any] | Job:
    """Make a dataset of what the request brings, or a job that will.

    Args:
        request: The request, its body unread.
        query: How to split it.
        key: The client's `Idempotency-Key`, if it sent one.
        deferred: Whether a job is wanted; a large archive is one all the same.
        deadline: Until when the upload may take, and without a job the admission.
        services: What does the work.

    Returns:
        The `DatasetInfo` as JSON, or the job.

    Raises:
        OpsinError: As the route tells. Nothing is kept.
        ClientDisconnect: The client hung up.
    """
    kind = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind == JSON_TYPE:
        return await _begin_empty(request, query, key, deadline, services)
    if kind == FORM_TYPE:
        async with _received(request, deadline, services) as (form, archive):
            asked = _asked(key, _name_of(form), query, form.digest.hexdigest())
            if asked and (earlier := await run_in_threadpool(_answered, asked, services)):
                return earlier
            if deferred or form.size >= services.settings.dataset_job_bytes:
                return await _import_later(form, archive, query, key, services)
            return await _admit(form, archive, query, key, until=deadline, services=services)
    raise UnsupportedMediaType(f"Set Content-Type to {FORM_TYPE} or {JSON_TYPE}.")


async def add(
    request: Request,
    dataset_id: str,
    query: AddQuery,
    *,
    key: str | None,
    deadline: Deadline,
    services: Services,
) -> dict[str, Any]:
    """Add the pictures that the request brings.

    Returns:
        ``{"dataset", "files"}`` as JSON.

    Raises:
        OpsinError: As the route tells.
        ClientDisconnect: The client hung up.
    """
    label = _checked_label(query.label)
    await run_in_threadpool(services.datasets.rows.get, dataset_id)
    with services.datasets.place(payer_of(request.scope)):
        async with deadline.enforced():
            uploads = await read_uploads(request, services.settings)
        pictures = [_picture(one, number) for number, one in enumerate(uploads, 1)]
        asked = _asked_to_add(key, dataset_id, label, query.split, pictures)
        return await run_in_threadpool(
            services.datasets.add, dataset_id, pictures, label, query.split, asked=asked
        )


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


@asynccontextmanager
async def _received(
    request: Request, deadline: Deadline, services: Services
) -> AsyncIterator[tuple[ArchiveForm, Path]]:
    """The form that was sent, and its archive in a file that goes when the block ends."""
    library = services.datasets.library
    with services.datasets.place(payer_of(request.scope)):
        async with contextmanager_in_threadpool(library.staging()) as folder:
            async with deadline.enforced():
                form = ArchiveForm(
                    request.headers["Content-Type"], limit=library.limits.archive_bytes
                )
                declared = request.headers.get("Content-Length", "")
                wanted = int(declared) if declared.isdecimal() else 0
                await run_in_threadpool(library.limits.require_room, folder, wanted)
                await form.save(request.stream(), folder / ARCHIVE)
            yield form, folder / ARCHIVE


async def _admit(
    form: ArchiveForm,
    archive: Path,
    query: CreateQuery,
    key: str | None,
    *,
    until: Deadline,
    services: Services,
) -> dict[str, Any]:
    name = _name_of(form)
    return await run_in_threadpool(
        services.datasets.create,
        name,
        archive,
        _fractions(query),
        told=_until(until),
        asked=_asked(key, name, query, form.digest.hexdigest()),
    )


def _answered(asked: Asked, services: Services) -> dict[str, Any] | Job | None:
    """What the first request with that key was answered, whichever way it was to be done."""
    if earlier := services.datasets.rows.answered(asked):
        return earlier.body
    earlier = services.datasets.rows.answered(replace(asked, scope="dataset_import"))
    return Job.model_validate(earlier.body) if earlier else None


async def _import_later(
    form: ArchiveForm, archive: Path, query: CreateQuery, key: str | None, services: Services
) -> Job:
    name = _name_of(form)
    asked = _asked(key, name, query, form.digest.hexdigest())
    return await services.queue.submit_work(
        "dataset_import",
        {"name": name, **query.model_dump()},
        inputs={ARCHIVE: archive},
        idempotency=(asked.key, asked.digest) if asked else None,
    )


def _until(deadline: Deadline) -> Told:
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
        raise ValidationFailed("A dataset's name has 1 to 100 printable characters.")
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

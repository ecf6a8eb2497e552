"""From the body of a request to a training that waits: read, filled in, checked, queued.

What can be known to be wrong is refused here, so that nobody waits in a queue for an error.
"""

import hashlib
import json
from typing import Any

from fastapi import Request
from fastapi.concurrency import contextmanager_in_threadpool, run_in_threadpool
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from pydantic_core import from_json

from contracts.errors import (
    BadRequest,
    NotTrainable,
    PayloadTooLarge,
    UnsupportedMediaType,
    ValidationFailed,
)
from contracts.jobs import Job
from contracts.settings import Settings
from contracts.training.trainings import LEAST_FRAMES, TrainingRequest
from database.datasets import DatasetRows
from database.faces.subjects import Subjects
from models.training.memory import check_size, memory_limit
from models.training.presets import training_request
from models.training.validation import check_count, check_name, check_names, check_network
from service.auth import audit
from service.auth.principal import caller_of
from service.dependencies import Services
from service.http.body import read_body
from service.http.deadlines import Deadline

JSON_TYPE = "application/json"
_MOST_BYTES = 256 * 1024


async def submit(request: Request, key: str | None, deadline: Deadline, services: Services) -> Job:
    """Queue the training that a request describes.

    Args:
        request: The request, its body unread.
        key: The client's `Idempotency-Key`, if it sent one.
        deadline: Until when the body may take.
        services: What does the work.

    Raises:
        OpsinError: It cannot be done, as the route tells. Nothing was queued.
        RequestValidationError: Fields of the body do not pass.
        ClientDisconnect: The client hung up.
    """
    async with deadline.enforced():
        sent = await _body(request)
    training = _training(sent)
    check_name(training.model)
    check_network(training)
    told = training.model_dump(mode="json")
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    idempotency = (key, digest) if key else None
    if training.subjects is not None:
        caller_of(request).require("faces")
        await run_in_threadpool(_check_subjects, training, services.faces.kept.subjects)
        job = await services.queue.submit_work("training", told, idempotency=idempotency)
    else:
        job = await _submit_with_data_set(training, told, idempotency, services)
    if training.promote != "never":
        await audit.done(request, services, "promotion_asked", f"{training.model} by {job.id}")
    return job


async def _submit_with_data_set(
    training: TrainingRequest,
    told: dict[str, Any],
    idempotency: tuple[str, str] | None,
    services: Services,
) -> Job:
    datasets = services.datasets
    # Asked first: a dataset that is being changed is waited for only if it is worth it.
    await run_in_threadpool(_check_data_set, training, datasets.rows, services.settings)
    async with contextmanager_in_threadpool(datasets.library.hold(training.dataset_id or "")):
        # Whoever would change or delete it now waits, and then meets the job.
        await run_in_threadpool(_check_data_set, training, datasets.rows, services.settings)
        return await services.queue.submit_work("training", told, idempotency=idempotency)


async def _body(request: Request) -> dict[str, Any]:
    kind = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind != JSON_TYPE:
        raise UnsupportedMediaType(f"Set Content-Type to {JSON_TYPE}.")
    refusal = PayloadTooLarge(f"The JSON may have {_MOST_BYTES:,} bytes.")
    body = await read_body(request, _MOST_BYTES, refusal)
    try:
        sent = from_json(body, allow_inf_nan=False)
    except ValueError:
        raise BadRequest("The body is not JSON.") from None
    if not isinstance(sent, dict):
        raise ValidationFailed('Send an object: {"dataset_id": "ds_…", "model": "…", …}.')
    return sent


def _training(sent: dict[str, Any]) -> TrainingRequest:
    try:
        return training_request(sent)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False, include_input=False)
        raise RequestValidationError(
            [{**fault, "loc": ("body", *fault["loc"])} for fault in faults]
        ) from None


def _check_subjects(training: TrainingRequest, subjects: Subjects) -> None:
    """Refuse whom nothing can be learned of: frames are kept only where the record says so."""
    bare = [
        f"{one} ({found.files})"
        for one in training.subjects or ()
        if (found := subjects.get(one)).files < LEAST_FRAMES
    ]
    if bare:
        raise NotTrainable(
            f"At least {LEAST_FRAMES} kept frames of each subject are needed, and these have fewer:"
            f" {', '.join(bare[:10])}. Set keep_frames and enroll them again, or leave them out."
        )
    check_names(training, training.subjects or ())


def _check_data_set(training: TrainingRequest, rows: DatasetRows, settings: Settings) -> None:
    info = rows.get(training.dataset_id or "")
    if not info.trainable:
        raise NotTrainable(info.reason or "Nothing can be learned from the dataset.")
    check_count(len(info.classes))
    check_names(training, info.classes)
    check_size(training, len(info.classes), memory_limit(settings.training_memory_mb))

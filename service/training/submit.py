"""Reads, completes, checks and queues a training.

Requests that are certain to fail are refused here, so that no client waits in a queue for an error.
A repeated request gets the first job before it is completed and checked, because an alias may have
moved, or the dataset been deleted, in between.
"""

import codecs
import hashlib
import json
from collections.abc import Collection
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from pydantic_core import from_json

from contracts.errors import (
    BadRequest,
    Forbidden,
    NotTrainable,
    PayloadTooLarge,
    UnsupportedMediaType,
    ValidationFailed,
)
from contracts.jobs import Job
from contracts.keys import Scope
from contracts.settings import Settings
from contracts.suggestions import MAX_ERRORS, explained
from contracts.training.datasets import DatasetInfo
from contracts.training.trainings import MIN_FRAMES, TrainingRequest
from database.faces.standings import require_consent
from models.catalog import CATALOG
from models.memory.machine import memory_limit
from models.training.memory import check_memory, estimate, images_of
from models.training.parent import check_beginning, complete
from models.training.presets import training_request
from models.training.validation import (
    check_class_count,
    check_class_options,
    check_model_name,
    check_network,
    check_selected_classes,
)
from models.weights.catalog import Weights
from models.weights.required import require_catalog_weights
from service.auth import audit
from service.auth.job_scopes import scopes_to_promote
from service.auth.principal import principal_of, quota_key
from service.datasets.kept import dataset_kept
from service.dependencies import Services
from service.faces.context import FaceServices
from service.http.body import JSON_TYPE, content_type_of, is_json, read_body
from service.http.deadlines import Deadline
from service.jobs.disk_room import require_disk
from service.threads import run_in_threadpool

_MAX_BYTES = 256 * 1024


async def submit(request: Request, key: str | None, deadline: Deadline, services: Services) -> Job:
    """Queue the training that a request describes.

    Args:
        request: The request, its body unread.
        key: The client's `Idempotency-Key`, if it sent one.
        deadline: For reading the body.
        services: The running service.

    Raises:
        OpsinError: As documented for the route. Nothing was queued.
        RequestValidationError: Fields of the body are invalid.
        ClientDisconnect: The client hung up.
    """
    async with deadline.enforced():
        sent = await _body(request)
    digest = hashlib.sha256(json.dumps(sent, sort_keys=True).encode()).hexdigest()
    if key and (earlier := await services.job_queue.earlier("training", key, digest)):
        return earlier
    training = _training(await run_in_threadpool(complete, sent, services.store))
    check_model_name(training.model)
    check_network(training)
    scopes = await check_promotion(request, services, training)
    await run_in_threadpool(check_weights, training, services.settings)
    parameters = training.as_job()
    idempotency = (key, digest) if key else None
    if training.subjects is not None:
        principal_of(request).require("faces")
        await run_in_threadpool(_check_subjects, training, services.faces, services.settings)
        job = await services.job_queue.submit_work(
            "training", parameters, idempotency=idempotency, client=quota_key(request.scope)
        )
    else:
        job = await _submit_with_dataset(
            training, parameters, idempotency, quota_key(request.scope), services, scopes=scopes
        )
    if training.promote != "never":
        await audit.record(request, services, "promotion_asked", f"{training.model} by {job.id}")
    return job


async def check_promotion(
    request: Request, services: Services, training: TrainingRequest
) -> tuple[Scope, ...]:
    """Check that a key may promote what a training makes, and return the scopes for its job.

    Raises:
        Forbidden: The model has versions that recognize people, and the key lacks `faces`.
        Unavailable: A version of the model cannot be read at the moment.
    """
    scopes = await run_in_threadpool(
        scopes_to_promote, services.store, training.model, training.promote
    )
    if not all(map(principal_of(request).may, scopes)):
        raise Forbidden(
            f"'{training.model}' has versions that recognize people, so a training that may "
            "promote its version needs a key with the scope `faces` as well. Choose another name, "
            "send `promote` as `never`, or use such a key."
        )
    return scopes


def check_weights(training: TrainingRequest, settings: Settings) -> None:
    """Check that the published weights a training starts from are there.

    Raises:
        ModelNotReady: They are not; says how to get them.
    """
    if training.strategy != "from_scratch" and training.parent is None:
        require_catalog_weights(CATALOG[training.network], Weights.of(settings))


async def _submit_with_dataset(
    training: TrainingRequest,
    parameters: dict[str, Any],
    idempotency: tuple[str, str] | None,
    client: str,
    services: Services,
    *,
    scopes: Collection[Scope],
) -> Job:
    # Checked first, so that a request that would fail does not wait for a dataset that is in use.
    await run_in_threadpool(check_dataset, training, services)
    async with dataset_kept(services, training.dataset_id or ""):
        await run_in_threadpool(check_dataset, training, services)
        return await services.job_queue.submit_work(
            "training", parameters, idempotency=idempotency, client=client, scopes=scopes
        )


async def _body(request: Request) -> dict[str, Any]:
    if not is_json(content_type_of(request)):
        raise UnsupportedMediaType(f"Set Content-Type to {JSON_TYPE}.")
    refusal = PayloadTooLarge(f"The JSON may have {_MAX_BYTES:,} bytes.")
    body = await read_body(request, _MAX_BYTES, refusal)
    try:
        sent = from_json(body.removeprefix(codecs.BOM_UTF8), allow_inf_nan=False)
    except ValueError:
        raise BadRequest("The body is not JSON.") from None
    if not isinstance(sent, dict):
        raise ValidationFailed('Send an object: {"dataset_id": "ds_…", "model": "…", …}.')
    return sent


def _training(sent: dict[str, Any]) -> TrainingRequest:
    try:
        return training_request(sent)
    except ValidationError as error:
        raise RequestValidationError(
            [
                {
                    "type": fault["type"],
                    "loc": ("body", *fault["loc"]),
                    "msg": explained(fault, TrainingRequest, number),
                }
                for number, fault in enumerate(error.errors(include_url=False)[:MAX_ERRORS])
            ]
        ) from None


def _check_subjects(training: TrainingRequest, faces: FaceServices, settings: Settings) -> None:
    """Refuse subjects without enough frames, which are stored only if the subject allows it.

    The same goes for subjects without a consent that is required, or whose key is missing.
    """
    subjects, policy = faces.subjects, faces.repositories.policy.get()
    for subject_id in training.subjects or ():
        require_consent(faces.repositories.standings.get(subject_id), policy)
        subjects.require_readable(subject_id)
    too_few = [
        f"{subject_id} ({subject.files})"
        for subject_id in training.subjects or ()
        if (subject := subjects.get(subject_id)).files < MIN_FRAMES
    ]
    if too_few:
        raise NotTrainable(
            f"At least {MIN_FRAMES} stored frames of each subject are needed, and these have fewer:"
            f" {', '.join(too_few[:10])}. Set keep_frames and enroll them again, or leave them out."
        )
    check_class_options(training, training.subjects or ())
    require_disk(settings, estimate(training, len(training.subjects or ())).weights)


def check_dataset(training: TrainingRequest, services: Services) -> None:
    """Check that a training can learn from its dataset, and has the room for it.

    Raises:
        OpsinError: It cannot; says what to change.
    """
    info = services.datasets.rows.get(training.dataset_id or "")
    require_disk(services.settings, check_learnable(training, info, services))


def check_learnable(training: TrainingRequest, info: DatasetInfo, services: Services) -> int:
    """Check that a training can learn from a dataset, and return the bytes of what it makes.

    Raises:
        OpsinError: It cannot; says what to change.
    """
    settings = services.settings
    if not info.trainable:
        raise NotTrainable(info.reason or "Nothing can be learned from the dataset.")
    check_selected_classes(training.classes, tuple(info.classes))
    classes = training.classes or tuple(info.classes)
    check_class_count(len(classes))
    check_class_options(training, classes)
    check_beginning(training, classes, services.store, Weights.of(settings))
    limit = memory_limit(settings.training_memory_mb)
    check_memory(training, len(classes), limit, images_of(training, info))
    return estimate(training, len(classes)).weights

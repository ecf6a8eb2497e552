"""`/v1/models/{name}/versions/{version}/evaluations`: how good a version is on a dataset."""

import hashlib
import json
from collections.abc import Collection
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from contracts.errors import ValidationFailed
from contracts.inference.evaluation import EvaluationBody
from contracts.inference.manifest import Manifest
from contracts.jobs import Job
from contracts.training.datasets import DatasetInfo
from models.evaluation.selection import check_classes, check_measurable, choose_split
from models.faces.provenance import recognizes_people
from models.store.labels import read_labels
from models.store.store import Store
from service.auth.principal import principal_of, quota_key
from service.dependencies import Services, ServicesDep
from service.http.errors import problem_responses
from service.http.headers import CreateKeyHeader
from service.http.responses import job_response
from service.jobs.disk_room import require_disk
from service.openapi import examples
from service.registry.version_routes import Name, Number
from service.threads import run_in_threadpool

router = APIRouter(prefix="/v1/models/{name}", tags=["Models"])


@router.post(
    "/versions/{version}/evaluations",
    operation_id="evaluate_version",
    summary="Measure a version on a dataset",
    status_code=202,
    response_model=Job,
    responses={
        202: examples.json_response(
            "The job; its `result` is an `EvaluationResult`.",
            examples.JOB | {"kind": "evaluation"},
        ),
        **problem_responses(
            *("model_not_found", "version_not_found", "dataset_not_found", "not_trainable"),
            *("idempotency_conflict", "validation_error", "queue_full", "dependency_unavailable"),
        ),
    },
)
async def evaluate_version(
    *,
    request: Request,
    name: Name,
    version: Number,
    body: EvaluationBody,
    services: ServicesDep,
    key: CreateKeyHeader = None,
) -> JSONResponse:
    """Measure a version by the runtime that serves it, with the report of a training.

    The result has the accuracy with its interval, figures for each class, the confusion matrix and
    the most confident mistakes. With `against`, another version is measured on the same images, and
    McNemar's exact test says whether they differ. Artifacts: `confusion_matrix.png`,
    `mistakes.png`, `predictions.csv`.
    """
    if await run_in_threadpool(_check, services, name, version, body):
        principal_of(request).require("faces")
    parameters: dict[str, Any] = {"model": name, "version": version}
    parameters |= body.model_dump(mode="json")
    digest = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()
    lock = partial(services.datasets.store.lock, body.dataset_id)
    async with services.lock_waiting.hold(body.dataset_id, lock):
        # A request that deletes the dataset waits now, and then finds the job.
        await run_in_threadpool(services.datasets.rows.get, body.dataset_id)
        job = await services.job_queue.submit_work(
            "evaluation",
            parameters,
            idempotency=(key, digest) if key else None,
            client=quota_key(request.scope),
        )
    return job_response(job)


def _check(services: Services, name: str, version: int, body: EvaluationBody) -> bool:
    """Refuse what the job would refuse; returns whether a version recognizes people.

    Raises:
        OpsinError: As documented for the route.
    """
    if body.against == version:
        raise ValidationFailed("against: name another version than the one that is measured.")
    info = services.datasets.rows.get(body.dataset_id)
    classes = _classes(info)
    numbers = [number for number in (version, body.against) if number is not None]
    manifests = [_check_version(services.store, name, number, classes) for number in numbers]
    choose_split(body.split, info.splits)
    require_disk(services.settings, 0)
    return any(recognizes_people(manifest) for manifest in manifests)


def _check_version(store: Store, name: str, number: int, classes: Collection[str]) -> Manifest:
    manifest = store.manifest(name, store.resolve(name, number))
    check_measurable(manifest)
    try:
        labels = read_labels(store.path(name, manifest.version))
    except (OSError, ValueError):
        return manifest  # damaged; the job says what is wrong
    check_classes(classes, labels)
    return manifest


def _classes(info: DatasetInfo) -> list[str]:
    return [label for label, count in info.classes.items() if count]

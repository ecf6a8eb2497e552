"""`/v1/models/{name}/versions/{version}/evaluations`: how good a version is on a dataset."""

import hashlib
import json
from collections.abc import Collection, Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from contracts.errors import ValidationFailed
from contracts.inference.evaluation import EvaluationBody
from contracts.inference.manifest import Manifest
from contracts.jobs import Job
from contracts.training.datasets import DatasetInfo
from models.evaluation.selection import check_classes, check_measurable, choose_split
from models.store.labels import read_labels
from models.store.store import Store
from service.auth.face_models import require_usable
from service.auth.principal import principal_of, quota_key
from service.datasets.kept import dataset_kept
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
            *("conflict", "idempotency_conflict", "validation_error", "queue_full"),
            "dependency_unavailable",
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
    parameters: dict[str, Any] = {"model": name, "version": version}
    parameters |= body.model_dump(mode="json")
    digest = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()
    if key and (earlier := await services.job_queue.earlier("evaluation", key, digest)):
        return job_response(earlier)
    # Before the checks: they read the labels of two versions, and compare them with the dataset's.
    idempotency, client = (key, digest) if key else None, quota_key(request.scope)
    await services.job_queue.require_room("evaluation", idempotency=idempotency, client=client)
    numbers = [number for number in (version, body.against) if number is not None]
    manifests = await run_in_threadpool(_manifests, services.store, name, numbers)
    for manifest in manifests:
        await require_usable(services, principal_of(request), manifest)
    await run_in_threadpool(_check, services, manifests, body)
    async with dataset_kept(services, body.dataset_id):
        job = await services.job_queue.submit_work(
            "evaluation", parameters, idempotency=idempotency, client=client
        )
    return job_response(job)


def _manifests(store: Store, name: str, numbers: Sequence[int]) -> list[Manifest]:
    return [store.manifest(name, store.resolve(name, number)) for number in numbers]


def _check(services: Services, manifests: Sequence[Manifest], body: EvaluationBody) -> None:
    """Refuse what the job would refuse.

    Raises:
        OpsinError: As documented for the route.
    """
    if body.against == manifests[0].version:
        raise ValidationFailed("against: name another version than the one that is measured.")
    info = services.datasets.rows.get(body.dataset_id)
    classes = _classes(info)
    for manifest in manifests:
        _check_version(services.store, manifest, classes)
    choose_split(body.split, info.splits)
    require_disk(services.settings, 0)


def _check_version(store: Store, manifest: Manifest, classes: Collection[str]) -> None:
    check_measurable(manifest)
    try:
        labels = read_labels(store.path(manifest.model, manifest.version))
    except (OSError, ValueError):
        return  # damaged; the job says what is wrong
    check_classes(classes, labels)


def _classes(info: DatasetInfo) -> list[str]:
    return [label for label, count in info.classes.items() if count]

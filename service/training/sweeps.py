"""`/v1/sweeps`: one training with several settings, of which the best becomes a version."""

import hashlib
import json
from math import prod
from typing import Any

from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError

from contracts.errors import ValidationFailed
from contracts.jobs import Job
from contracts.suggestions import MAX_ERRORS, explained
from contracts.training.datasets import DatasetInfo
from contracts.training.sweeps import SweepBody, SweepRequest, SweepTraining
from contracts.training.trainings import TrainingRequest
from models.training.parent import complete
from models.training.presets import training_request
from models.training.sweeps.grid import combinations, with_values
from models.training.validation import check_model_name, check_network
from service.auth import audit
from service.auth.principal import quota_key
from service.datasets.kept import dataset_kept
from service.dependencies import Services, ServicesDep
from service.http.errors import problem_responses
from service.http.headers import CreateKeyHeader
from service.http.responses import LOCATION, job_response
from service.jobs.disk_room import require_disk
from service.openapi import examples
from service.threads import run_in_threadpool
from service.training import submit

# Of all trainings as JSON. A job's row is read with every list of jobs, and every second by its
# worker; a thousand class weights, repeated a hundred times, would be 150 MB of it.
_MAX_BYTES = 1024 * 1024

router = APIRouter(tags=["Trainings"])


@router.post(
    "/v1/sweeps",
    operation_id="create_sweep",
    summary="Train a model with several settings and keep the best",
    status_code=202,
    response_model=Job,
    responses={
        202: {
            **examples.json_response(
                "The job; its `result` is a `SweepResult`.", examples.JOB | {"kind": "sweep"}
            ),
            "headers": LOCATION,
        },
        **problem_responses(
            *("dataset_not_found", "idempotency_conflict", "validation_error", "not_trainable"),
            *("queue_full", "dependency_unavailable"),
        ),
    },
)
async def create_sweep(
    *, request: Request, body: SweepBody, services: ServicesDep, key: CreateKeyHeader = None
) -> JSONResponse:
    """Train every combination of the grid, one after another, and keep the best version.

    The validation images decide, so that the figures of the test images stay honest. The result
    has a row for each training; `trainings.csv` is the same as a table and grows while the job
    runs. Of the versions only the best one is kept, and `promote` of the training decides whether
    it is served. A training that fails is a row with an error, and the others go on. A cancelled
    sweep keeps the best version until then, without promoting it.
    """
    # Of what was sent, since an alias may move in between.
    digest = hashlib.sha256(
        json.dumps(body.model_dump(mode="json"), sort_keys=True).encode()
    ).hexdigest()
    if key and (earlier := await services.job_queue.earlier("sweep", key, digest)):
        return job_response(earlier)
    # Before the checks, of which there are a hundred times as many as for a training.
    idempotency, client = (key, digest) if key else None, quota_key(request.scope)
    await services.job_queue.require_room("sweep", idempotency=idempotency, client=client)
    sweep, training = await run_in_threadpool(_checked, body, services)
    scopes = await submit.check_promotion(request, services, training)
    parameters = sweep.model_dump(mode="json")
    async with dataset_kept(services, sweep.dataset_id):
        job = await services.job_queue.submit_work(
            "sweep", parameters, idempotency=idempotency, client=client, scopes=scopes
        )
    if training.promote != "never":
        await audit.record(request, services, "promotion_asked", f"{sweep.model} by {job.id}")
    return job_response(job)


def _checked(body: SweepBody, services: Services) -> tuple[SweepRequest, TrainingRequest]:
    """The job's request, and one of its trainings, which all have one model and one `promote`.

    What a training would refuse is refused here. The dataset and the disk, which all of them share,
    are looked at once.

    Raises:
        OpsinError: As documented for the route.
        RequestValidationError: Fields of a training are invalid.
    """
    seed = body.training.get("seed")
    drawn = combinations(body.grid, body.max_trainings, seed if isinstance(seed, int) else 0)
    trainings: list[SweepTraining] = []
    known: set[str] = set()
    size = room = 0
    info: DatasetInfo | None = None
    for values in drawn:
        training = _training(with_values(body.training, values), values, services)
        if info is None:
            info = services.datasets.rows.get(training.dataset_id or "")
        room = max(room, submit.check_learnable(training, info, services))
        planned = SweepTraining(values=values, request=training.as_job())
        text = json.dumps(planned.request, sort_keys=True)
        if text in known:
            continue
        known.add(text)
        trainings.append(planned)
        size += len(text)
        if size > _MAX_BYTES:
            raise ValidationFailed(
                f"The sweep's trainings have more than {_MAX_BYTES // 1024} kB together, as each "
                "repeats what they have in common. Send fewer of them, or shorter class_weights or "
                "classes."
            )
    require_disk(services.settings, room)
    sweep = SweepRequest(
        dataset_id=training.dataset_id or "",
        model=training.model,
        combinations=prod(map(len, body.grid.values())),
        metric=body.metric,
        trainings=trainings,
    )
    return sweep, training


def _training(sent: dict[str, Any], values: dict[str, Any], services: Services) -> TrainingRequest:
    try:
        training = training_request(complete(sent, services.store))
    except ValidationError as error:
        where = f" (with {json.dumps(values, ensure_ascii=False)})" if values else ""
        raise RequestValidationError(
            [
                {
                    "type": "value_error",  # explained here, by the fields of a training
                    "loc": ("body", "training", *fault["loc"]),
                    "msg": f"{explained(fault, TrainingRequest, number)}{where}",
                }
                for number, fault in enumerate(error.errors(include_url=False)[:MAX_ERRORS])
            ]
        ) from None
    check_model_name(training.model)
    check_network(training)
    submit.check_weights(training, services.settings)
    return training

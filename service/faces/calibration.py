"""Starts calibrations, and turns a request to set the threshold into a threshold."""

import hashlib
import json

from pydantic import ValidationError

from contracts.errors import ValidationFailed
from contracts.faces.calibration import CalibrationBody, CalibrationResult, default_target
from contracts.faces.subjects import NewThreshold, Threshold, embedder_of
from contracts.jobs import Job
from contracts.training.datasets import DatasetInfo
from database.jobs.jobs import Jobs
from models.faces.calibration.support import require_support
from service.datasets.kept import dataset_kept
from service.dependencies import Services
from service.faces.requirements import require_analyzer
from service.threads import run_in_threadpool


async def start_calibration(
    services: Services, body: CalibrationBody, key: str | None, client: str
) -> Job:
    """Create the job of a calibration; `client` is from `quota_key`.

    Raises:
        ModelNotReady: The face embedder or the weights that find faces are missing.
        DatasetNotFound: There is no such dataset.
        NotTrainable: It is too small for the requested rate.
        ValidationFailed: A group names an unknown class.
        OpsinError: The job cannot be created.
    """
    await require_analyzer(services)
    async with dataset_kept(services, body.dataset_id):
        return await _start(services, body, key, client)


async def _start(services: Services, body: CalibrationBody, key: str | None, client: str) -> Job:
    info = await run_in_threadpool(services.datasets.rows.get, body.dataset_id)
    pairs = _impostor_pairs(info)
    body = body.model_copy(update={"target_fmr": body.target_fmr or default_target(pairs)})
    _check(info, body)
    request = body.model_dump(mode="json")
    digest = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
    return await services.job_queue.submit_work(
        "calibration",
        request,
        idempotency=(key, digest) if key else None,
        client=client,
    )


def resolve_threshold(new: NewThreshold, jobs: Jobs, embedder: str | None) -> Threshold:
    """The threshold that a request sets: the similarity in it, or the result of a calibration.

    Args:
        embedder: The current embedder; a calibration is valid only for the one it measured.

    Raises:
        JobNotFound: There is no such job.
        ValidationFailed: The job is not a successful calibration, measured another embedder, or
            found no threshold below 1.
    """
    if new.calibration_job_id is None:
        return Threshold(**new.model_dump(exclude={"calibration_job_id"}), embedder=embedder)
    job = jobs.get(new.calibration_job_id)
    if job.kind != "calibration" or job.state != "succeeded":
        raise ValidationFailed("calibration_job_id: name a calibration that has succeeded.")
    try:
        result = CalibrationResult.model_validate(job.result)
    except ValidationError:
        raise ValidationFailed(
            "The calibration's result cannot be read. Calibrate again."
        ) from None
    measured = embedder_of(result.version)
    if embedder is not None and measured != embedder:
        raise ValidationFailed(
            f"It was measured with {measured}, but {embedder} is in use. Calibrate again."
        )
    if not -1 < result.threshold < 1:  # of an earlier release
        raise ValidationFailed(
            "No two faces reach the calibration's threshold, since people in its dataset share an "
            "image. Remove the copies and calibrate again."
        )
    return Threshold(
        similarity=result.threshold,
        margin=new.margin,
        embedder=measured,
        target_fmr=result.target_fmr,
        source="calibration",
        measured_on=f"{result.dataset_id}: {result.faces} faces of {result.people} people",
    )


def _impostor_pairs(info: DatasetInfo) -> int:
    """Pairs of different people, if every image is usable."""
    counts = list(info.classes.values())
    return (sum(counts) ** 2 - sum(count**2 for count in counts)) // 2


def _check(info: DatasetInfo, body: CalibrationBody) -> None:
    """Refuse what would be impossible even if every image were usable."""
    pairs = _impostor_pairs(info)
    require_support(pairs, body.target_fmr or default_target(pairs))
    unknown = sorted(set(body.groups or ()) - info.classes.keys())
    if unknown:
        names = ", ".join(repr(name) for name in unknown[:3])
        raise ValidationFailed(
            f"groups names {names}, but the dataset has no such class. Use its class names."
        )

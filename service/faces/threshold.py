"""A threshold to be put in force: as it was sent, or as a calibration found it."""

from pydantic import ValidationError

from contracts.errors import ValidationFailed
from contracts.faces.calibration import CalibrationResult
from contracts.faces.subjects import NewThreshold, Threshold, embedder_of
from database.jobs.jobs import Jobs


def chosen(body: NewThreshold, jobs: Jobs, embedder: str | None) -> Threshold:
    """The threshold that a body stands for.

    Args:
        body: A similarity, or the job of a calibration.
        jobs: Where that is.
        embedder: What is in force; a calibration holds for its own embedder alone.

    Raises:
        JobNotFound: There is no such job.
        ValidationFailed: It is no calibration that succeeded, or one of another embedder.
    """
    if body.calibration_job_id is None:
        sent = body.model_dump(exclude={"calibration_job_id"})
        return Threshold(**sent, embedder=embedder)
    job = jobs.get(body.calibration_job_id)
    if job.kind != "calibration" or job.state != "succeeded":
        raise ValidationFailed("calibration_job_id: name a calibration that has succeeded.")
    try:
        found = CalibrationResult.model_validate(job.result)
    except ValidationError:
        raise ValidationFailed("The calibration's result cannot be read. Calibrate anew.") from None
    measured = embedder_of(found.version)
    if embedder is not None and measured != embedder:
        raise ValidationFailed(
            f"It was measured with {measured}, and {embedder} is in force. Calibrate anew."
        )
    return Threshold(
        similarity=found.threshold,
        margin=body.margin,
        embedder=measured,
        target_fmr=found.target_fmr,
        source="calibration",
        measured_on=f"{found.dataset_id}: {found.faces} faces of {found.people} people",
    )

"""Deletes the versions that were trained on an erased person, and the jobs about the person.

`opsin restore` uses it too, without a running service.
"""

from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from contracts.errors import Conflict, DiskUnusable, JobNotFound
from contracts.faces.erased_ids import erased_ids
from contracts.faces.faces import FACE_MODEL
from database.jobs.jobs import Jobs
from models.faces import provenance
from models.faces.provenance import TrainedVersion
from models.store.store import Store


def delete_versions(store: Store, jobs: Jobs, subject_id: str) -> list[TrainedVersion]:
    """Delete the versions, and then the jobs that used or made them: their results name people."""
    cancel_trainings(jobs, subject_id)
    versions = provenance.versions_trained_on(store, subject_id)
    try:
        return provenance.erase(store, subject_id)
    finally:
        with suppress(DiskUnusable):  # they are found again, and then keep the erasure from ending
            erase_jobs(jobs, subject_id, versions)


def erase_jobs(jobs: Jobs, subject_id: str, versions: Collection[TrainedVersion] = ()) -> None:
    """Delete the jobs about a person, and those that used these versions.

    Raises:
        DiskUnusable: Files of some of the jobs cannot be deleted from the disk.
    """
    jobs.erase_about(subject_id, {(trained.model, trained.version) for trained in versions})


def deleted_versions(store: Store, jobs: Jobs) -> list[TrainedVersion]:
    """Versions of people that jobs used and that are deleted; nothing tells any more of whom.

    Raises:
        Unavailable: The database does not answer.
        OSError: The store cannot be read.
    """
    used = {key for key in jobs.versions_of_people() if key[0] != FACE_MODEL}
    kept = {
        (model, version)
        for model in {model for model, _ in used}
        for version in (*store.numbers(model), *store.quarantined(model))
    }
    return [TrainedVersion(*key) for key in sorted(used - kept)]


def cancel_trainings(jobs: Jobs, subject_id: str) -> None:
    """Cancel the unfinished trainings on a person."""
    for job_id in jobs.using_subject(subject_id):
        try:
            jobs.cancel(job_id)
        except (JobNotFound, Conflict):
            continue  # it has ended


def still_named(home: Path, store: Store, jobs: Jobs) -> set[str]:
    """Those of the home's list of erased persons whom a version or a job is about.

    Raises:
        OSError: The list cannot be read.
        Unavailable: The database does not answer.
    """
    if not (erased := erased_ids(home)):
        return set()
    return {one for one in provenance.subjects_of(store) | jobs.subjects() if one in erased}

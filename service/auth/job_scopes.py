"""Which scopes a key needs to read, follow, cancel or delete a job.

They are those that its request needed because of what it is about, and are stored with it: what a
key may not ask for it may not read either. Whoever submits a job does not pass them, so no route
can forget them; it adds only those that depend on more than the request (`scopes_to_promote`).
"""

from collections.abc import Mapping
from typing import Any

from contracts.errors import JobNotFound, OpsinError
from contracts.faces.faces import FACE_MODEL
from contracts.jobs import Job, JobKind
from contracts.keys import Scope
from contracts.training.training_result import Promote
from database.jobs.jobs import Jobs
from models.faces.provenance import VERSION_FIELDS, has_versions_of_people, recognizes_people
from models.store.store import Store
from service.auth.principal import Principal
from service.auth.scopes import scope_of_job


def scopes_of_request(kind: JobKind, request: Mapping[str, Any], store: Store) -> tuple[Scope, ...]:
    """All scopes that a job with that request needs; blocks.

    Args:
        kind: The job's.
        request: Its parameters.
        store: Says whether the versions in the request recognize people.
    """
    scopes: list[Scope] = [scope_of_job(kind)]
    if kind == "calibration":
        scopes.append("train")  # its result tells about the dataset
    if "faces" not in scopes and _is_about_people(request, store):
        scopes.append("faces")
    return tuple(scopes)


def scopes_to_promote(store: Store, model: str, promote: Promote) -> tuple[Scope, ...]:
    """The further scopes of a job that may promote a new version of a model; blocks.

    The submitter checks them and stores them with the job, which replaces no version of people
    without.

    Raises:
        Unavailable: A version of the model cannot be read at the moment.
    """
    return ("faces",) if promote != "never" and has_versions_of_people(store, model) else ()


def require_job(principal: Principal, job: Job, jobs: Jobs, store: Store) -> None:
    """Check that a key may read a job and change it; blocks.

    Raises:
        Forbidden: It lacks one of the scopes.
        JobNotFound: The job was deleted meanwhile.
    """
    for scope in _scopes_of(job, jobs, store):
        principal.require(scope)


def may_read(principal: Principal, job: Job, jobs: Jobs, store: Store) -> bool:
    """Whether `require_job` lets the key read the job."""
    try:
        return all(principal.may(scope) for scope in _scopes_of(job, jobs, store))
    except JobNotFound:
        return False


def _scopes_of(job: Job, jobs: Jobs, store: Store) -> tuple[Scope, ...]:
    if job.scopes is not None:
        return job.scopes
    return scopes_of_request(job.kind, jobs.request_of(job.id), store)


def _is_about_people(request: Mapping[str, Any], store: Store) -> bool:
    """Whether it names subjects, or a version that recognizes people or exists no longer."""
    if request.get("subjects"):
        return True
    model = str(request.get("model"))
    numbers = [request[name] for name in VERSION_FIELDS if request.get(name) is not None]
    if model == FACE_MODEL:
        return True
    try:
        return any(recognizes_people(store.manifest(model, int(number))) for number in numbers)
    except (OpsinError, OSError, ValueError, TypeError):
        return True

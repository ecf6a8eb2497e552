"""Whether a version can answer in a standard protocol, the same at each of their endpoints."""

from collections.abc import Iterable, Iterator
from typing import Literal

from contracts.errors import OpsinError, ValidationFailed
from contracts.inference.registry import ModelInfo, VersionError, VersionStatus
from models.store.snapshot import ServedVersion
from service.protocols.oip_schemas import ModelState, RepositoryState
from service.protocols.tensor_spec import OPERATIONS, outputs_of
from service.queue.workers import WorkerRegistry

ServingState = Literal["AVAILABLE", "LOADING", "END"]
_SERVING_STATES: dict[RepositoryState, ServingState] = {
    "READY": "AVAILABLE",
    "LOADING": "LOADING",
    "UNAVAILABLE": "END",
}
_UNUSED = "No alias points to it, so no worker loads it."


def choose_any(
    workers: WorkerRegistry, model: str, version: str | None
) -> tuple[ServedVersion, int]:
    """The version that answers with any of its outputs.

    Raises:
        OpsinError: None can; the error is that of the output which the model has.
    """
    errors: list[OpsinError] = []
    for operation in OPERATIONS.values():
        try:
            return workers.choose(model, version, operation)
        except OpsinError as error:
            errors.append(error)
    # A model without classes refuses to classify, whatever its state is.
    raise next((error for error in errors if not isinstance(error, ValidationFailed)), errors[0])


def info_of_version(workers: WorkerRegistry, info: ModelInfo, version: int) -> ModelInfo:
    """The model with the sizes of one version, which may not be those of the champion."""
    try:
        served, _ = choose_any(workers, info.name, str(version))
    except OpsinError:
        return info
    manifest = served.manifest
    return info.model_copy(
        update={
            "classes": manifest.classes,
            "input_size": manifest.input_size,
            "features": manifest.features,
            "operations": tuple(OPERATIONS[name] for name in outputs_of(manifest)),
        }
    )


def repository_states(workers: WorkerRegistry, info: ModelInfo) -> Iterator[ModelState]:
    """The repository's entries of a model: one for each version, or one if it has none yet."""
    if not info.versions:
        yield ModelState(
            name=info.name, version="", state=_state_of(info), reason=info.reason or ""
        )
    for version in info.versions:
        yield _state_of_version(workers, info, version)


def model_status(
    workers: WorkerRegistry, info: ModelInfo, versions: Iterable[int]
) -> list[VersionStatus]:
    """The states of some versions of a model, in the terms of TensorFlow Serving."""
    statuses = []
    for version in versions:
        entry = _state_of_version(workers, info, version)
        status = VersionStatus(version=entry.version, state=_SERVING_STATES[entry.state])
        if status.state == "END":
            status.status = VersionError(error_code="UNAVAILABLE", error_message=entry.reason)
        statuses.append(status)
    return statuses


def _state_of_version(workers: WorkerRegistry, info: ModelInfo, version: int) -> ModelState:
    entry = ModelState(name=info.name, version=str(version), state="READY", reason="")
    if workers.answers(info.name, version, OPERATIONS.values()):
        return entry
    if version not in info.aliases.values():  # most: a model may have hundreds of versions
        return entry.model_copy(update={"state": "UNAVAILABLE", "reason": _UNUSED})
    try:
        choose_any(workers, info.name, str(version))
    except OpsinError as error:
        entry.state, entry.reason = _state_of(info), info.reason or error.detail
    return entry


def _state_of(info: ModelInfo) -> RepositoryState:
    return "LOADING" if info.state == "loading" else "UNAVAILABLE"

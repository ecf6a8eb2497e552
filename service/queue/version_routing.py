"""Which version answers: what the store's aliases say, among what the workers really hold.

The version an alias stands on is chosen as soon as one worker holds it; until then the one that
answered before, which the workers keep for that long. So no request fails in between.

Finds a model and its version among those that the workers tell of, ready or not.
"""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from contracts.errors import (
    ModelNotFound,
    ModelNotReady,
    NoWorker,
    OpsinError,
    ValidationFailed,
    VersionNotFound,
)
from contracts.faces.faces import FACE_MODEL, FACE_OPERATIONS
from contracts.inference.inference import LaneOperation
from contracts.inference.manifest import CHAMPION, Manifest
from contracts.inference.registry import ModelInfo
from contracts.queue.heartbeat import HeldModel, ModelState, WorkerBeat
from models.catalog import CATALOG
from models.store.snapshot import Served, Shelf, Shelves

if TYPE_CHECKING:
    from service.queue.workers import Presence

_NUMBER = re.compile(r"[1-9][0-9]{0,8}")
_RETRY_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Choice:
    """What can be chosen at one moment.

    Attributes:
        configured: The names in `OPSIN_MODELS`, in order.
        shelves: The picture of the store.
        workers: Those that live.
    """

    configured: tuple[str, ...]
    shelves: Shelves
    workers: tuple[WorkerBeat, ...]

    def names(self) -> list[str]:
        """Every model there is: of the catalog first, then of the settings and the store."""
        return list(dict.fromkeys((*CATALOG, *self.configured, *self.shelves.names())))

    def choose(self, name: str, version: str | None, operation: LaneOperation) -> Served | None:
        """The version that answers, or None if none can."""
        shelf = self.shelves.get(name)
        for number in self._candidates(shelf, name, version or CHAMPION):
            held = self._held(name, number)
            if held:
                can = any(operation in one.operations for one in held)
                return self.shelves.served.get((name, number)) if can else None
        return None

    def refusal(self, name: str, version: str | None, operation: LaneOperation) -> OpsinError:
        """Why `choose` found none, and what to do about it."""
        if name not in self.names():
            known = ", ".join(self.names())
            return ModelNotFound(f"There is no model '{name[:64]}'. Known: {known}.")
        missing = self._missing(name, version or CHAMPION)
        if missing is not None:
            return missing
        if self._is_for_faces(name) and operation not in FACE_OPERATIONS:
            return ValidationFailed(
                f"'{name}' tells faces apart and has no classes. Choose another model, or send "
                "the picture to /v1/faces."
            )
        if not self.workers:
            return NoWorker(
                "No worker is running. Start one, or retry in a moment if one is starting.",
                retry_after=_RETRY_SECONDS,
            )
        if (
            version is not None
            and _NUMBER.fullmatch(version)
            and not self._is_aliased(name, version)
        ):
            return ModelNotReady(
                f"No worker holds version {version} of '{name}'. Let an alias stand on it "
                f"(POST /v1/models/{name}/aliases), then ask again.",
                retry_after=_RETRY_SECONDS,
            )
        reason = self.info(name).reason or "It is still loading."
        return ModelNotReady(
            f"'{name}' cannot {operation} now. {reason}", retry_after=_RETRY_SECONDS
        )

    def fate(self, model: str, version: int) -> bool | None:
        """Whether a worker holds a version; None while one may still come to hold it."""
        if self._held(model, version):
            return True
        told = [one for worker in self.workers for one in worker.models if one.name == model]
        failed = [one for one in told if one.version == version and one.state == "unavailable"]
        workers = {
            worker.id for worker in self.workers if any(m.name == model for m in worker.models)
        }
        if not workers and self.workers and model not in CATALOG:
            return None  # just made: the workers are about to see it
        return False if len(failed) >= len(workers) else None

    def info(self, name: str) -> ModelInfo:
        """One model with its present state."""
        shelf, row = self.shelves.get(name), CATALOG.get(name)
        answers = self._answering(shelf, name)
        told = [one for worker in self.workers for one in worker.models if one.name == name]
        state, reason = self._state(shelf, name, answers, told)
        shown = self._shown(shelf)
        licence = row.licence if row else None
        if shown is not None and shown.provenance.weights is not None:
            licence = shown.provenance.weights.licence
        operations = {one for held in answers for one in held.operations}
        return ModelInfo(
            name=name,
            network=shown.network if shown else name,
            state=state,
            reason=reason,
            aliases=shelf.aliases,
            versions=list(shelf.versions),
            classes=shown.classes if shown else row.classes if row else None,
            input_size=shown.input_size if shown else row.input_size if row else None,
            features=shown.features if shown else row.features if row else None,
            operations=tuple(sorted(operations)),
            runtime=answers[0].runtime if answers else None,
            runtime_reason=next(
                (one.runtime_reason for one in answers if one.runtime_reason), None
            ),
            sanity=shown.sanity if shown else None,
            licence=licence,
        )

    def _candidates(self, shelf: Shelf, name: str, version: str) -> list[int]:
        """The versions that may answer, best first."""
        if _NUMBER.fullmatch(version):
            return [int(version)] if int(version) in shelf.versions else []
        if version not in shelf.aliases:
            return []
        standing = {
            one.version
            for worker in self.workers
            for one in worker.models
            if one.name == name and one.version is not None and version in one.aliases
        }
        return [shelf.aliases[version], *sorted(standing, reverse=True)]

    def _held(self, name: str, version: int) -> list[HeldModel]:
        held = (worker.held(name).get(version) for worker in self.workers)
        return [one for one in held if one is not None]

    def _answering(self, shelf: Shelf, name: str) -> list[HeldModel]:
        """What answers for the champion."""
        for number in self._candidates(shelf, name, CHAMPION):
            if held := self._held(name, number):
                return held
        return []

    def _is_aliased(self, name: str, version: str) -> bool:
        return int(version) in self.shelves.get(name).aliases.values()

    def _missing(self, name: str, version: str) -> VersionNotFound | None:
        """The error, if the store has versions of the model but not this one."""
        shelf = self.shelves.get(name)
        number = int(version) if _NUMBER.fullmatch(version) else shelf.aliases.get(version)
        if number in shelf.versions:
            return None
        if number in shelf.quarantined:
            return VersionNotFound(
                f"Version {number} of '{name}' was found damaged and is in quarantine; "
                "use another version or publish it anew."
            )
        if not shelf.versions and version == CHAMPION:
            return None  # nothing is there yet, which is another matter
        known = ", ".join(str(one) for one in shelf.versions) or "none"
        aliases = ", ".join(shelf.aliases) or "none"
        return VersionNotFound(
            f"'{name}' has no version '{version[:64]}'. Versions: {known}; aliases: {aliases}."
        )

    def _state(
        self, shelf: Shelf, name: str, answers: list[HeldModel], told: list[HeldModel]
    ) -> tuple[ModelState, str | None]:
        champion = shelf.aliases.get(CHAMPION)
        if answers and answers[0].version == champion:
            best = max(answers, key=lambda one: len(one.operations))
            return best.state, best.reason
        others = [one for one in told if one not in answers and one.version in (champion, None)]
        loading = any(one.state == "loading" for one in others)
        reason = next((one.reason for one in others if one.reason), None)
        if answers:
            until = "is being loaded" if loading else "cannot be loaded"
            why = f"Version {champion} {until}; version {answers[0].version} answers."
            return answers[0].state, f"{why} {reason}" if reason else why
        if champion in shelf.quarantined and not loading:
            reason = f"Version {champion} was found damaged; promote another."
        return ("loading" if loading else "unavailable"), reason or (
            None if loading else self._why_nobody(name)
        )

    def _is_for_faces(self, name: str) -> bool:
        shown = self._shown(self.shelves.get(name))
        if shown is None:
            return name == FACE_MODEL
        return shown.network == FACE_MODEL and shown.classes is None

    def _shown(self, shelf: Shelf) -> Manifest | None:
        """The manifest that stands for the model: the champion's, or else the newest."""
        champion = shelf.aliases.get(CHAMPION)
        number = champion if champion in shelf.versions else max(shelf.versions, default=None)
        return None if number is None else shelf.versions[number]

    def _why_nobody(self, name: str) -> str:
        if not self.workers:
            return "No worker is running."
        if name in CATALOG and name not in self.configured:
            return f"No worker loads it. Add '{name}' to OPSIN_MODELS."
        return "No alias stands on a version of it; promote one."


def model_named(presence: "Presence", name: str) -> ModelInfo:
    """The model of that name.

    Raises:
        ModelNotFound: There is none; the message lists those there are.
    """
    models = presence.models()
    for model in models:
        if model.name == name:
            return model
    known = ", ".join(model.name for model in models)
    raise ModelNotFound(f"There is no model '{name[:64]}'. Known: {known}.")


def version_of(info: ModelInfo, version: str | None) -> int:
    """The version of that number or alias; None is the champion.

    Raises:
        VersionNotFound: The model has no such version.
        ModelNotReady: It has none at all yet.
    """
    if not info.versions:
        why = info.reason or "It is still loading."
        raise ModelNotReady(f"'{info.name}' has no version yet. {why}", retry_after=5)
    asked = version or "champion"
    for number in info.versions:
        if str(number) == asked or info.aliases.get(asked) == number:
            return number
    known = ", ".join([*map(str, info.versions), *info.aliases])
    raise VersionNotFound(f"'{info.name}' has no version '{asked[:64]}'. It has: {known}.")

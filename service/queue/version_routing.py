"""Which version answers: what the store's aliases say, among what the workers have loaded.

A version is chosen for its alias as soon as one worker has loaded it. Until then the previous one
answers, which the workers keep loaded for that long. So no request fails in between.
"""

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

from contracts.errors import (
    ModelNotFound,
    ModelNotReady,
    NoWorker,
    OpsinError,
    ValidationFailed,
    VersionNotFound,
)
from contracts.faces.faces import FACE_MODEL, FACE_OPERATIONS
from contracts.inference.inference import Operation
from contracts.inference.manifest import CHAMPION, Manifest
from contracts.inference.registry import ModelInfo
from contracts.queue.heartbeat import HeldModel, ModelState, WorkerBeat
from contracts.suggestions import similar
from contracts.wording import few
from models.catalog import CATALOG
from models.store.snapshot import ModelVersions, ServedVersion, StoreSnapshot

_NUMBER = re.compile(r"[1-9][0-9]{0,8}")
_RETRY_SECONDS = 5.0
_MAX_QUOTED = 64
"""Characters of a client's text that an error repeats."""


@dataclass(frozen=True, slots=True)
class VersionRouter:
    """What can be chosen at one moment.

    Attributes:
        configured: The names in `OPSIN_MODELS`, in order.
        store: The versions and aliases in the store.
        workers: The live inference workers.
    """

    configured: tuple[str, ...]
    store: StoreSnapshot
    workers: tuple[WorkerBeat, ...]
    _held: dict[str, list[HeldModel]] = field(init=False, repr=False, compare=False)
    _names: list[str] = field(default_factory=list, init=False, repr=False, compare=False)
    _infos: dict[str, ModelInfo] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _texts: dict[str, str] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Sort what the workers report by model, since workers may hold hundreds of them."""
        held: dict[str, list[HeldModel]] = {}
        for worker in self.workers:
            for model in worker.models:
                held.setdefault(model.name, []).append(model)
        object.__setattr__(self, "_held", held)

    def names(self) -> list[str]:
        """All models: first those of the catalog, then of the settings and the store.

        Do not change the list, it is made once.
        """
        if not self._names:
            known = dict.fromkeys((*CATALOG, *self.configured, *self.store.names()))
            object.__setattr__(self, "_names", list(known))
        return self._names

    def names_after(self, last: str | None) -> list[str]:
        """The models that follow one in `names`, which may be deleted; all of them for None."""
        names = self.names()
        if last is None:
            return names
        first_stored = len({*CATALOG, *self.configured})
        if last in names[:first_stored]:
            return names[names.index(last) + 1 :]
        return names[bisect_right(names, last, first_stored) :]

    def choose(self, name: str, version: str | None, operation: Operation) -> ServedVersion | None:
        """The version that answers, or None if none can."""
        for number in self._candidates(name, version or CHAMPION):
            loaded = self._loaded(name, number)
            if loaded:
                supported = any(operation in model.operations for model in loaded)
                return self.store.served.get((name, number)) if supported else None
        return None

    def not_available_error(
        self, name: str, version: str | None, operation: Operation
    ) -> OpsinError:
        """Why `choose` returned None, and what to do about it."""
        if not self._is_known(name):
            return self._unknown_model(name)
        unknown_version = self._unknown_version(name, version or CHAMPION)
        if unknown_version is not None:
            return unknown_version
        if self._is_for_faces(name) and operation not in FACE_OPERATIONS:
            return ValidationFailed(
                f"'{name}' recognizes faces and has no classes. Choose another model, or send "
                "the image to /v1/faces."
            )
        if not self.workers:
            return NoWorker(
                "No worker is running. Start one, or retry in a moment if one is starting.",
                retry_after=_RETRY_SECONDS,
            )
        if (
            version is not None
            and _NUMBER.fullmatch(version)
            and int(version) not in self.store.get(name).aliases.values()
        ):
            return ModelNotReady(
                f"No worker has loaded version {version} of '{name}'. Point an alias to it "
                f"(POST /v1/models/{name}/aliases), then retry.",
                retry_after=_RETRY_SECONDS,
            )
        reason = self.model_info(name).reason or "It is still loading."
        return ModelNotReady(
            f"'{name}' is not ready for {operation}. {reason}", retry_after=_RETRY_SECONDS
        )

    def will_be_served(self, name: str, version: int) -> bool | None:
        """Whether a worker has loaded a version; None if one may still load it."""
        if self._loaded(name, version):
            return True
        failed = sum(
            model.version == version and model.state == "unavailable"
            for model in self._reported(name)
        )
        workers = {
            worker.id
            for worker in self.workers
            if any(model.name == name for model in worker.models)
        }
        if not workers and self.workers and name not in CATALOG:
            return None  # just published: the workers have not seen it yet
        return False if failed >= len(workers) else None

    def is_awaited(self, name: str, version: int) -> bool:
        """Whether a worker may still load a version: one that serves another version of the model.

        Every worker loads what was trained here, also a model that it does not know yet.
        """
        for worker in self.workers:
            models = [model for model in worker.models if model.name == name]
            states = [model.state for model in models if model.version == version]
            serves = any(model.operations for model in models)
            is_new = not models and name not in CATALOG
            if "loading" in states or (serves and not states) or is_new:
                return True
        return False

    def model_info(self, name: str) -> ModelInfo:
        """One model with its state at that moment; do not change it, it is made once."""
        info = self._infos.get(name)
        if info is None:
            info = self._infos[name] = self._model_info(name)
        return info

    def model_json(self, name: str) -> str:
        """The same as JSON, made once too: lists of hundreds of models may be asked for often."""
        text = self._texts.get(name)
        if text is None:
            text = self._texts[name] = self.model_info(name).model_dump_json(by_alias=True)
        return text

    def find(self, name: str) -> ModelInfo:
        """`model_info`, of a name that a client sent.

        Raises:
            ModelNotFound: There is no such model; the message lists those there are.
        """
        if not self._is_known(name):
            raise self._unknown_model(name)
        return self.model_info(name)

    def _is_known(self, name: str) -> bool:
        return name in CATALOG or name in self.configured or name in self.store.models

    def _unknown_model(self, name: str) -> ModelNotFound:
        quoted = name[:_MAX_QUOTED]
        meant = similar(quoted, self.names())
        return ModelNotFound(f"There is no model '{quoted}'.{meant} Known: {few(self.names())}.")

    def _model_info(self, name: str) -> ModelInfo:
        row, known = CATALOG.get(name), self.store.get(name)
        answering = self._answering(name)
        state, reason = self._state(name, answering)
        reason = " ".join(filter(None, (known.problem, reason))) or None
        manifest = self._manifest(name)
        licence = row.licence if row else None
        if manifest is not None and manifest.provenance.weights is not None:
            licence = manifest.provenance.weights.licence
        operations = {operation for model in answering for operation in model.operations}
        return ModelInfo(
            name=name,
            network=manifest.network if manifest else name,
            state=state,
            reason=reason,
            aliases=known.aliases,
            versions=list(known.versions),
            classes=manifest.classes if manifest else row.classes if row else None,
            input_size=manifest.input_size if manifest else row.input_size if row else None,
            features=manifest.features if manifest else row.features if row else None,
            operations=tuple(sorted(operations)),
            runtime=answering[0].runtime if answering else None,
            runtime_reason=next(
                (model.runtime_reason for model in answering if model.runtime_reason), None
            ),
            sanity=manifest.sanity if manifest else None,
            licence=licence,
        )

    def _candidates(self, name: str, version: str) -> list[int]:
        """The versions that may answer, best first."""
        known = self.store.get(name)
        if _NUMBER.fullmatch(version):
            return [int(version)] if int(version) in known.versions else []
        if version not in known.aliases:
            return []
        active = {
            model.version
            for model in self._reported(name)
            if model.version is not None and version in model.aliases
        }
        return [known.aliases[version], *sorted(active, reverse=True)]

    def _reported(self, name: str) -> Sequence[HeldModel]:
        """What all workers report about a model, whatever its state."""
        return self._held.get(name, ())

    def _loaded(self, name: str, version: int) -> list[HeldModel]:
        return [
            model for model in self._reported(name) if model.version == version and model.operations
        ]

    def _answering(self, name: str) -> list[HeldModel]:
        """The loaded version that answers for the champion, in each worker."""
        for number in self._candidates(name, CHAMPION):
            if loaded := self._loaded(name, number):
                return loaded
        return []

    def _unknown_version(self, name: str, version: str) -> VersionNotFound | None:
        """The error, if the store has versions of the model but not this one."""
        known = self.store.get(name)
        number = int(version) if _NUMBER.fullmatch(version) else known.aliases.get(version)
        if number in known.versions:
            return None
        if number in known.quarantined:
            return VersionNotFound(
                f"Version {number} of '{name}' is damaged and in quarantine; "
                "use another version or publish it again."
            )
        if not known.versions and version == CHAMPION:
            return None  # there are no versions at all yet, which is another error
        versions, aliases = few(map(str, known.versions)), few(known.aliases)
        return VersionNotFound(
            f"'{name}' has no version '{version[:_MAX_QUOTED]}'. "
            f"Versions: {versions}; aliases: {aliases}."
        )

    def _state(self, name: str, answering: list[HeldModel]) -> tuple[ModelState, str | None]:
        known = self.store.get(name)
        champion = known.aliases.get(CHAMPION)
        if answering and answering[0].version == champion:
            best = max(answering, key=lambda model: len(model.operations))
            return best.state, best.reason
        others = [
            model
            for model in self._reported(name)
            if model not in answering and model.version in (champion, None)
        ]
        loading = any(model.state == "loading" for model in others)
        reason = next((model.reason for model in others if model.reason), None)
        if answering:
            until = "is being loaded" if loading else "cannot be loaded"
            why = f"Version {champion} {until}; version {answering[0].version} answers."
            return answering[0].state, f"{why} {reason}" if reason else why
        if loading or (champion in known.versions and self._is_awaited(name)):
            return "loading", reason
        if champion in known.quarantined:
            reason = f"Version {champion} is damaged; promote another."
        return "unavailable", reason or self._unserved_reason(name)

    def _is_for_faces(self, name: str) -> bool:
        manifest = self._manifest(name)
        if manifest is None:
            return name == FACE_MODEL
        return manifest.network == FACE_MODEL and manifest.classes is None

    def _manifest(self, name: str) -> Manifest | None:
        """The manifest that describes the model: the champion's, otherwise the newest one."""
        return _champion_or_newest(self.store.get(name))

    def _is_awaited(self, name: str) -> bool:
        """Whether a worker that still loads others will come to a trained model, which is last."""
        if name in CATALOG or any(self._reported(name)):
            return False
        return any(model.state == "loading" for worker in self.workers for model in worker.models)

    def _unserved_reason(self, name: str) -> str:
        if not self.workers:
            return "No worker is running."
        if name in CATALOG and name not in self.configured:
            return f"No worker loads it. Add '{name}' to OPSIN_MODELS."
        champion = self.store.get(name).aliases.get(CHAMPION)
        if champion is not None:
            return (
                f"No worker has loaded version {champion}. A worker holds the trained models that "
                "were promoted last (OPSIN_TRAINED_MODELS); promote it again to serve it."
            )
        return "No alias points to any of its versions; promote one."


def _champion_or_newest(known: ModelVersions) -> Manifest | None:
    champion = known.aliases.get(CHAMPION)
    number = champion if champion in known.versions else max(known.versions, default=None)
    return None if number is None else known.versions[number]


def find_version(model: ModelInfo, version: str | None) -> int:
    """The version of that number or alias; None is the champion.

    Raises:
        VersionNotFound: The model has no such version.
        ModelNotReady: It has no version at all yet.
    """
    if not model.versions:
        why = model.reason or "It is still loading."
        raise ModelNotReady(f"'{model.name}' has no version yet. {why}", retry_after=5)
    requested = version or CHAMPION
    for number in model.versions:
        if str(number) == requested or model.aliases.get(requested) == number:
            return number
    versions, aliases = few(map(str, model.versions)), few(model.aliases)
    raise VersionNotFound(
        f"'{model.name}' has no version '{requested[:_MAX_QUOTED]}'. "
        f"Versions: {versions}; aliases: {aliases}."
    )

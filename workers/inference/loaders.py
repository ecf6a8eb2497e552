"""What the loading thread of a worker does, from the first import to the last swap."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

import numpy as np
import structlog

from contracts.errors import VersionNotFound
from contracts.queue.heartbeat import HeldModel
from contracts.settings import Settings
from models.catalog import CATALOG, Network
from models.export.zoo_imports import imported, origin_of
from models.serving.runtime import RuntimeOptions
from models.store.store import Store
from models.weights.catalog import Weights, WeightsMissing
from workers.inference.loaded_models import Held, Predictor
from workers.inference.model_manager import Load, Versions

if TYPE_CHECKING:
    from models.explain.explainer import Explainer
    from models.faces.detection.finder import FaceFinder

log = structlog.get_logger()

_ROOT = Path(__file__).resolve().parents[2]
_IMPORT_SECONDS = 900.0
_POLL_SECONDS = 0.1


def prepare(settings: Settings) -> tuple[str, ...]:
    """Tell TensorFlow what it asks the environment; return what the networks are computed on.

    TensorFlow itself is imported only where it serves: with OpenVINO the worker is ready four
    seconds sooner and takes half a gigabyte less.
    """
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # or it greets in ten lines
    if RuntimeOptions.of(settings).engine == "openvino":
        return ("CPU",)
    from models.serving.devices import devices, prepare_tensorflow  # TensorFlow

    prepare_tensorflow(settings.worker_threads)
    return devices()


def loader(
    store: Store,
    max_batch_size: int,
    options: RuntimeOptions,
    *,
    before_faces: Callable[[], None] = lambda: None,
) -> Load:
    """Checks, loads and warms a version.

    Args:
        store: Where it lies.
        max_batch_size: Most pictures that run together.
        options: What shall run it.
        before_faces: Brings what a version that answers for faces is of no use without.
    """

    def load(model: str, version: int) -> Predictor:
        from models.serving.predictor import load_version  # half a second

        if store.verify(model, version):
            raise VersionNotFound(
                f"Version {version} was found damaged and is in quarantine; "
                "promote another version or publish it anew."
            )
        predictor = load_version(
            store, model, version, max_batch_size=max_batch_size, options=options
        )
        if predictor.runtime_reason is not None:
            log.warning(
                "runtime_fell_back",
                model=model,
                version=version,
                runtime=predictor.runtime,
                reason=predictor.runtime_reason,
            )
        if "faces" in predictor.operations:
            before_faces()
        predictor.warm()
        return predictor

    return load


def finder_opener(settings: Settings) -> "Callable[[], FaceFinder]":
    """Reads what finds faces."""

    def open_one() -> "FaceFinder":
        from models.faces.detection.finder import open_finder  # LiteRT and OpenCV

        return open_finder(Weights.of(settings), threads=settings.worker_threads)

    return open_one


def explainer_loader(
    store: Store, held: Held, settings: Settings
) -> "Callable[[str, int], Explainer]":
    """Reads a version's Keras model and runs it once, so that nobody waits for its first run."""

    def load(model: str, version: int) -> "Explainer":
        # With OpenVINO this may be the first that TensorFlow hears of how many threads are ours;
        # to be told before Keras first runs anything.
        from models.serving.devices import prepare_tensorflow  # TensorFlow

        prepare_tensorflow(settings.worker_threads)
        from models.explain.explainer import Explainer  # TensorFlow
        from models.serving.predictor import VersionPredictor

        predictor = held.get(model, version)
        explainer = Explainer(
            store.path(model, version),
            max_batch_size=settings.max_batch_size,
            predictor=predictor if isinstance(predictor, VersionPredictor) else None,
        )
        manifest = store.manifest(model, version)
        blank = np.zeros((1, *manifest.input_size, 3), np.uint8)
        if manifest.classes is None:
            explainer.activations(blank, manifest.explain_layer)
        else:
            explainer.probabilities(blank)
        return explainer

    return load


class ZooImports:
    """Brings the configured catalog rows into the store, once, where their weights are here.

    Args:
        settings: Which, and where everything is.
        store: Where to.
        versions: Told how each fares.
        stopping: Ends an import that is under way.
    """

    def __init__(
        self, settings: Settings, store: Store, versions: Versions, stopping: Event
    ) -> None:
        self._settings = settings
        self._store = store
        self._versions = versions
        self._stopping = stopping
        self._weights = Weights.of(settings)

    def __call__(self) -> None:
        """Import what is missing, each followed by its loading."""
        for model in dict.fromkeys(self._settings.models):
            if self._stopping.is_set():
                return
            self._bring(model)
            self._versions.look(self._stopping)

    def _bring(self, model: str) -> None:
        network = CATALOG.get(model)
        if network is None:
            self._say(model, f"There is no version of '{model}' in the store yet.")
            return
        try:
            for name in network.needs:
                self._weights.find(name)
            origin = origin_of(network, self._weights)
        except WeightsMissing as missing:
            log.warning("weights_missing", model=model, reason=missing.detail)
            self._say(model, missing.detail)
            return
        partial = None if origin.is_whole else self._why_partial(network)
        if imported(self._store, model, origin) is None:
            reason = "Its weights are being imported into the store, once."
            loading = HeldModel(name=model, state="loading", reason=reason)
            self._versions.absent(model, loading, partial=partial)
            if not self._import(model):
                self._say(model, "Its weights could not be imported; the worker's log says why.")
                return
        reason = "No alias stands on a version of it; promote one."
        state = HeldModel(name=model, state="unavailable", reason=reason)
        self._versions.absent(model, state, partial=partial)

    def _say(self, model: str, reason: str) -> None:
        state = HeldModel(name=model, state="unavailable", reason=reason)
        self._versions.absent(model, state)

    def _why_partial(self, network: Network) -> str | None:
        try:
            self._weights.find(network.weights)
        except WeightsMissing as missing:
            return missing.detail
        return None

    def _import(self, model: str) -> bool:
        """Run the child to its end; whether the network is in the store now."""
        settings = self._settings
        folders = [settings.store_home, settings.home / "samples", settings.weights_home]
        if settings.weights_dir is not None:
            folders.append(settings.weights_dir)
        child = subprocess.Popen(  # noqa: S603  our own module, paths from the settings
            [sys.executable, "-m", "models.export.import_child", model, *map(str, folders)],
            cwd=_ROOT,
            # The GPU is the worker's, and the check needs none.
            env=os.environ | {"CUDA_VISIBLE_DEVICES": "-1", "KERAS_BACKEND": "tensorflow"},
            stdin=subprocess.DEVNULL,
        )
        log.info("import_began", model=model)
        waited = 0.0
        while child.poll() is None:
            if self._stopping.wait(_POLL_SECONDS) or waited > _IMPORT_SECONDS:
                child.kill()
                child.wait()
                return False
            waited += _POLL_SECONDS
        log.info("import_ended", model=model, exit_code=child.returncode)
        return child.returncode == 0

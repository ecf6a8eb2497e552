"""Loads what an inference worker runs: versions, explainers and the face finder.

TensorFlow, OpenVINO and OpenCV are imported only when they are needed.
"""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog

from contracts.errors import Unavailable, VersionNotFound
from contracts.settings import Settings
from models.serving.runtime import RuntimeOptions
from models.store.store import Store
from models.weights.catalog import Weights
from workers.inference.loaded_models import LoadedModels, Predictor

if TYPE_CHECKING:
    from models.explain.explainer import Explainer
    from models.faces.detection.finder import FaceFinder
    from workers.inference.faces import FacesOperation

log = structlog.get_logger()


def prepare_devices(settings: Settings) -> tuple[str, ...]:
    """Set TensorFlow's environment variables; return the devices that compute.

    TensorFlow itself is imported only if it serves: with OpenVINO the worker is ready four seconds
    sooner and takes half a gigabyte less.
    """
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # otherwise it prints ten lines at start
    if RuntimeOptions.of(settings).engine == "openvino":
        return ("CPU",)
    from models.serving.devices import devices, prepare_tensorflow  # TensorFlow

    prepare_tensorflow(settings.worker_threads)
    return devices()


class VersionLoader:
    """Verifies, loads and warms up versions.

    Args:
        store: Where they are.
        max_batch_size: The largest batch, in images.
        options: Which runtime to use.
        faces: Needs its face finder before a version that answers for faces is of any use.
    """

    def __init__(
        self,
        store: Store,
        max_batch_size: int,
        options: RuntimeOptions,
        faces: "FacesOperation | None" = None,
    ) -> None:
        self._store = store
        self._max_batch_size = max_batch_size
        self._options = options
        self._faces = faces

    def __call__(self, model: str, version: int) -> Predictor:
        """Load a version.

        Raises:
            VersionNotFound: It is damaged.
            WeightsMissing: It answers for faces, and the face finder's weights are missing.
        """
        from models.serving.predictor import load_version  # takes half a second

        if self._store.verify(model, version):
            raise VersionNotFound(
                f"Version {version} is damaged and in quarantine; "
                "promote another version or publish it again."
            )
        predictor = load_version(
            self._store,
            model,
            version,
            max_batch_size=self._max_batch_size,
            options=self._options,
        )
        if predictor.runtime_reason is not None:
            log.warning(
                "runtime_fell_back",
                model=model,
                version=version,
                runtime=predictor.runtime,
                reason=predictor.runtime_reason,
            )
        if self._faces is not None and "faces" in predictor.operations:
            self._faces.finder()
        predictor.warm()
        return predictor

    def base_of(self, model: str, version: int) -> str | None:
        """The digest of the base that a version will probably share when it is loaded.

        None if it has none, or if its heads take much memory besides.
        """
        from models.serving.openvino.head_file import kept_base
        from models.serving.openvino.runtime import INT8_FOLDER

        if self._options.engine != "openvino":
            return None
        try:
            folder = self._store.path(model, version)
        except (VersionNotFound, Unavailable):
            return None
        is_int8 = self._options.precision in ("auto", "int8") and (folder / INT8_FOLDER).is_dir()
        return None if is_int8 else kept_base(folder)


def face_finder_opener(settings: Settings) -> "Callable[[], FaceFinder]":
    """A function that loads the face finder."""

    def open_face_finder() -> "FaceFinder":
        from models.faces.detection.finder import open_finder  # LiteRT and OpenCV

        return open_finder(Weights.of(settings), threads=settings.worker_threads)

    return open_face_finder


def explainer_loader(
    store: Store, models: LoadedModels, settings: Settings
) -> "Callable[[str, int], Explainer]":
    """A function that loads a version's Keras model and runs it once, since a first run is slow."""

    def load(model: str, version: int) -> "Explainer":
        # With OpenVINO, TensorFlow may be imported here for the first time. The number of threads
        # has to be set before Keras runs anything.
        from models.serving.devices import prepare_tensorflow  # TensorFlow

        prepare_tensorflow(settings.worker_threads)
        from models.explain.explainer import Explainer  # TensorFlow
        from models.serving.predictor import VersionPredictor
        from models.serving.runtime import RuntimeOptions

        predictor = models.get(model, version)
        explainer = Explainer(
            store.path(model, version),
            max_batch_size=settings.max_batch_size,
            predictor=predictor if isinstance(predictor, VersionPredictor) else None,
            options=RuntimeOptions.of(settings),
        )
        explainer.warm_up(None, None)
        return explainer

    return load

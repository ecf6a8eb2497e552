"""Explains the predictions of one version of a model.

Grad-CAM and HiResCAM at the version's own layer come from its SavedModel, which any worker has
loaded; everything else from `model.keras`, read from our own store in safe mode when it is first
needed.
"""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter

from contracts.errors import ValidationFailed
from contracts.inference.explanation import FAST, LayerInfo, Method
from contracts.queue.explain_messages import OWN_METHODS
from contracts.queue.messages import Pixels
from models.catalog import Preprocessing
from models.explain.cam import scaled
from models.explain.instrumented_model import FunctionKind, InstrumentedModel
from models.explain.layer_graph import layers_of
from models.explain.layers import explainable_layer, read_layers
from models.explain.sampling import SAMPLINGS, SamplingInput
from models.export.saved_model import KERAS_MODEL
from models.networks.keras_files import read_whole
from models.serving.predictor import VersionPredictor
from models.serving.runtime import RuntimeOptions
from models.store.manifest import read_manifest

Grids = npt.NDArray[np.float32]
Classes = npt.NDArray[np.int32]

_PREPROCESSING: TypeAdapter[Preprocessing] = TypeAdapter(Preprocessing)


def _no_progress(fraction: float) -> None:
    del fraction


class Explainer:
    """One version. Its files are read when they are first needed, and once.

    Args:
        folder: The version's, from `Store.path`.
        max_batch_size: The most images that run together.
        predictor: The same version, if it is loaded already; its SavedModel is then shared.
        options: The requested runtime; the default is TensorFlow.

    Attributes:
        manifest: The version's manifest.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_batch_size: int,
        predictor: VersionPredictor | None = None,
        options: RuntimeOptions = RuntimeOptions(),  # noqa: B008  frozen
    ) -> None:
        self.manifest = read_manifest(folder)
        self._folder = folder
        self._max_batch_size = max_batch_size
        self._predictor = predictor
        self._options = options
        self._instrumented: InstrumentedModel | None = None
        self._layers: tuple[LayerInfo, ...] | None = None
        self._loading = threading.RLock()

    @property
    def layers(self) -> tuple[LayerInfo, ...]:
        """The layers in the order of the forward pass, without the input."""
        if self._layers is None:
            try:
                self._layers = read_layers(self._folder)
            except FileNotFoundError:  # made by a release without that file
                self._layers = layers_of(self._keras().graph)
        return self._layers

    @property
    def traces(self) -> int:
        """How many functions have been traced so far; those of the SavedModel come traced."""
        return 0 if self._instrumented is None else self._instrumented.traces

    def heatmaps(
        self,
        method: Method,
        images: Pixels,
        classes: Classes,
        layer: str | None = None,
        *,
        progress: Callable[[float], None] = _no_progress,
        seed: int = 0,
    ) -> Grids:
        """Why each image would be of its class.

        Args:
            method: How the evidence is found.
            images: RGB of the version's input size, (n, h, w, 3), uint8, at least one.
            classes: The class to explain of each, (n,), int32.
            layer: The layer whose maps are weighed; the version's own if left out. The methods
                that look at pixels (`smooth_grad`, `integrated_gradients`, `occlusion`) use none.
            progress: Called with the fraction done now and then; may raise to stop.
            seed: Of the noise of `smooth_grad`.

        Returns:
            float32 (n, gh, gw) in 0..1, the strongest evidence being 1, never NaN; all zeros
            where nothing speaks for the class.

        Raises:
            LayerNotFound: There is no such layer.
            ValidationFailed: It has no maps, there is no such class, or no classifier at all.
            ValueError: `images` has another shape or dtype.
        """
        name = explainable_layer(self.layers, layer or self.manifest.explain_layer).name
        self._check(images)
        self._check_classes(classes)
        if self._is_served(method, name):
            grids = self._served().explain(images, classes, hires=method == "hires_cam").grids
            progress(1.0)
            return grids
        if method in FAST:
            levels = images.astype(np.float32)
            return self._keras().grids(method, levels, classes, name, progress)
        return self._sampled(method, images, classes, name, progress=progress, seed=seed)

    def probabilities(
        self, images: Pixels, progress: Callable[[float], None] = _no_progress
    ) -> Grids:
        """The probability of each class: (n, classes); of a sigmoid, both its classes.

        They are those of the runtime that classifies, so that an image has one probability,
        whatever explains it.

        Args:
            images: As for `heatmaps`.
            progress: As for `heatmaps`.

        Raises:
            ValidationFailed: There is no classifier.
        """
        self._check(images)
        self._class_count()
        served, step = self._served(), self._keras().batch
        rows = []
        for start in range(0, len(images), step):
            rows.append(served.run("classify", images[start : start + step]))
            progress(min(1.0, (start + step) / len(images)))
        return np.concatenate(rows)

    def activations(
        self, images: Pixels, layer: str, progress: Callable[[float], None] = _no_progress
    ) -> Grids:
        """A layer's maps: (n, gh, gw, channels).

        Args:
            images: As for `heatmaps`.
            layer: Its name.
            progress: As for `heatmaps`.

        Raises:
            LayerNotFound: There is no such layer.
            ValidationFailed: It has no maps.
        """
        name = explainable_layer(self.layers, layer).name
        self._check(images)
        return self._keras().maps(images.astype(np.float32), name, progress)

    def is_warm(self, method: Method | None, layer: str | None) -> bool:
        """Whether a method, or None for `activations`, answers without loading or tracing."""
        model, name = self._instrumented, layer or self.manifest.explain_layer
        if model is None or not all(model.is_traced(*key) for key in self._functions(method, name)):
            return False
        if method is None:
            return True
        served = self._predictor
        return served is not None and (
            not self._is_served(method, name) or served.can_explain(hires=method == "hires_cam")
        )

    def warm_up(self, method: Method | None, layer: str | None) -> None:
        """Load and trace all that a method needs. Takes seconds; any thread may call it.

        Raises:
            LayerNotFound, ValidationFailed: As the method itself would.
        """
        name = explainable_layer(self.layers, layer or self.manifest.explain_layer).name
        model = self._keras() if method is None else self._keras_classifier()
        if method is not None:
            self._served()
        if self._is_served(method, name):
            self._served().load_explain(hires=method == "hires_cam")
        for kind, of_layer in self._functions(method, name):
            if not model.is_traced(kind, of_layer):
                model.warm_up(kind, of_layer)

    def _functions(self, method: Method | None, layer: str) -> list[tuple[FunctionKind, str]]:
        """The functions that a method or `activations` runs; those of a layer with its name."""
        if method is None:
            return [("maps", layer)]
        functions: list[tuple[FunctionKind, str]] = []
        if method == "score_cam":
            functions.append(("maps", layer))
        if method in ("score_cam", "occlusion"):
            functions.append(("masked_scores", ""))
        elif method in ("smooth_grad", "integrated_gradients"):
            functions.append(("gradients", ""))
        elif not self._is_served(method, layer):
            functions.append(("evidence", layer))
        return functions

    def _is_served(self, method: Method | None, layer: str) -> bool:
        """Whether the SavedModel answers."""
        return method in OWN_METHODS and layer == self.manifest.explain_layer

    def _sampled(
        self,
        method: Method,
        images: Pixels,
        classes: Classes,
        layer: str,
        *,
        progress: Callable[[float], None],
        seed: int,
    ) -> Grids:
        model, count = self._keras(), len(images)
        grids = []
        for number, (image, index) in enumerate(zip(images, classes, strict=True)):

            def report(fraction: float, number: int = number) -> None:
                progress((number + fraction) / count)

            sampling = SamplingInput(
                model, image.astype(np.float32), int(index), layer, seed, report
            )
            evidence = SAMPLINGS[method](sampling).astype(np.float32)
            grids.append(scaled(evidence[np.newaxis]).numpy()[0])
        return np.stack(grids)

    def _check(self, images: Pixels) -> None:
        size = (*self.manifest.input_size, 3)
        if images.dtype != np.uint8 or images.shape[1:] != size or len(images) == 0:
            raise ValueError(
                f"images must be uint8 of shape {size}, not {images.dtype} of {images.shape}"
            )

    def _check_classes(self, classes: Classes) -> None:
        count = self._class_count()
        if np.any((classes < 0) | (classes >= count)):
            raise ValidationFailed(f"class_index is 0 to {count - 1} for '{self.manifest.model}'.")

    def _class_count(self) -> int:
        if self.manifest.classes is None:
            raise ValidationFailed(
                f"'{self.manifest.model}' version {self.manifest.version} is a base without a "
                "classifier: it has no classes to explain. Its activations and filters can be seen."
            )
        return self.manifest.classes

    def _keras_classifier(self) -> InstrumentedModel:
        self._class_count()
        return self._keras()

    def _keras(self) -> InstrumentedModel:
        with self._loading:
            if self._instrumented is None:
                self._instrumented = InstrumentedModel(
                    read_whole(self._folder / KERAS_MODEL),
                    _PREPROCESSING.validate_python(self.manifest.preprocessing),
                    max_batch_size=self._max_batch_size,
                    options=self._options,
                )
            return self._instrumented

    def _served(self) -> VersionPredictor:
        with self._loading:
            if self._predictor is None:
                self._predictor = VersionPredictor(
                    self._folder, max_batch_size=self._max_batch_size, options=self._options
                )
            return self._predictor

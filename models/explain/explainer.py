"""One version of a model, asked for its reasons.

Grad-CAM and HiResCAM at the version's own layer come from its SavedModel, which any worker has
loaded; everything else from `model.keras`, read from our own store, in safe mode, when it is first
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
from models.explain.instrumented_model import Probe
from models.explain.instrumented_model import Question as GraphQuestion
from models.explain.layer_graph import layers_of
from models.explain.layers import explainable_layer, read_layers
from models.explain.sampling import SAMPLINGS, Question
from models.export.saved_model import KERAS_MODEL
from models.networks.keras_files import read_whole
from models.serving.predictor import VersionPredictor
from models.store.manifest import read_manifest

Grids = npt.NDArray[np.float32]
Classes = npt.NDArray[np.int32]

_PREPROCESSING: TypeAdapter[Preprocessing] = TypeAdapter(Preprocessing)


class Explainer:
    """A version that says why. What it needs of its files is read when it is needed, and once.

    Args:
        folder: The version's own, from `Store.path`.
        max_batch_size: Most pictures that run together.
        predictor: The same version, if it is loaded already; its SavedModel is then shared.

    Attributes:
        manifest: What the version says of itself.
    """

    def __init__(
        self, folder: Path, *, max_batch_size: int, predictor: VersionPredictor | None = None
    ) -> None:
        self.manifest = read_manifest(folder)
        self._folder = folder
        self._max_batch_size = max_batch_size
        self._predictor = predictor
        self._probe: Probe | None = None
        self._layers: tuple[LayerInfo, ...] | None = None
        self._loading = threading.RLock()

    @property
    def layers(self) -> tuple[LayerInfo, ...]:
        """The layers in the order of the pass forward, without the input."""
        if self._layers is None:
            try:
                self._layers = read_layers(self._folder)
            except FileNotFoundError:  # a version made before that file was
                self._layers = layers_of(self._asked().flat)
        return self._layers

    @property
    def traces(self) -> int:
        """How many graphs have been traced so far; those of the SavedModel come traced."""
        return 0 if self._probe is None else self._probe.traces

    def heatmaps(
        self,
        method: Method,
        images: Pixels,
        classes: Classes,
        layer: str | None = None,
        *,
        progress: Callable[[float], None] | None = None,
        seed: int = 0,
    ) -> Grids:
        """Why each picture would be of its class.

        Args:
            method: One of the eight.
            images: RGB of the version's input size, (n, h, w, 3), uint8, at least one.
            classes: The class to explain of each, (n,), int32.
            layer: The layer whose maps are weighed; the version's own if left out. The methods
                that look at pixels (`smooth_grad`, `integrated_gradients`, `occlusion`) use none.
            progress: Told the fraction done, now and then; may raise to stop.
            seed: Of the noise of `smooth_grad`.

        Returns:
            float32 (n, gh, gw) in 0..1, the strongest evidence being 1, never NaN; all zeros
            where nothing speaks for the class.

        Raises:
            LayerNotFound: There is no such layer.
            ValidationFailed: It has no maps, there is no such class, or no classifier at all.
            ValueError: `images` has another shape or dtype.
        """
        chosen = explainable_layer(self.layers, layer or self.manifest.explain_layer).name
        self._check(images)
        self._check_classes(classes)
        if self._is_served(method, chosen):
            served = self._served()
            grids = served.explain(images, classes, hires=method == "hires_cam").grids
        elif method in FAST:
            return self._asked().grids(
                method, images.astype(np.float32), classes, chosen, progress or _ignored
            )
        else:
            return self._sampled(
                method, images, classes, chosen, progress=progress or _ignored, seed=seed
            )
        (progress or _ignored)(1.0)
        return grids

    def probabilities(
        self, images: Pixels, progress: Callable[[float], None] | None = None
    ) -> Grids:
        """How probable each class is: (n, classes); of a sigmoid, both its classes.

        Args:
            images: As for `heatmaps`.
            progress: Likewise.

        Raises:
            ValidationFailed: There is no classifier.
        """
        self._check(images)
        probe = self._asked_of_classes()
        return probe.probabilities(images.astype(np.float32), progress or _ignored)

    def activations(
        self, images: Pixels, layer: str, progress: Callable[[float], None] | None = None
    ) -> Grids:
        """A layer's maps: (n, gh, gw, channels).

        Args:
            images: As for `heatmaps`.
            layer: By name.
            progress: As for `heatmaps`.

        Raises:
            LayerNotFound: There is no such layer.
            ValidationFailed: It has no maps.
        """
        name = explainable_layer(self.layers, layer).name
        self._check(images)
        return self._asked().maps(images.astype(np.float32), name, progress or _ignored)

    def is_rehearsed(self, method: Method | None, layer: str | None) -> bool:
        """Whether a method, or None for `activations`, answers without loading or tracing."""
        probe, name = self._probe, layer or self.manifest.explain_layer
        if probe is None or not all(probe.knows(*key) for key in self._keys(method, name)):
            return False
        served = self._predictor
        return not self._is_served(method, name) or (
            served is not None and served.can_explain(hires=method == "hires_cam")
        )

    def rehearse(self, method: Method | None, layer: str | None) -> None:
        """Load and trace all that a method needs; takes seconds, by any thread.

        Raises:
            LayerNotFound, ValidationFailed: As the method itself would.
        """
        name = explainable_layer(self.layers, layer or self.manifest.explain_layer).name
        probe = self._asked() if method is None else self._asked_of_classes()
        if self._is_served(method, name):
            self._served().load_explain(hires=method == "hires_cam")
        for question, at in self._keys(method, name):
            if not probe.knows(question, at):
                probe.rehearse(question, at)

    def _keys(self, method: Method | None, layer: str) -> list[tuple[GraphQuestion, str]]:
        """The graphs that a method or `activations` runs; those of a layer with its name."""
        if method is None:
            return [("maps", layer)]
        keys: list[tuple[GraphQuestion, str]] = [("probabilities", "")]
        if method == "score_cam":
            keys.append(("maps", layer))
        if method in ("score_cam", "occlusion"):
            keys.append(("masked_scores", ""))
        elif method in ("smooth_grad", "integrated_gradients"):
            keys.append(("gradients", ""))
        elif not self._is_served(method, layer):
            keys.append(("evidence", layer))
        return keys

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
        probe, count = self._asked(), len(images)
        grids = []
        for at, (image, index) in enumerate(zip(images, classes, strict=True)):

            def within(fraction: float, at: int = at) -> None:
                progress((at + fraction) / count)

            question = Question(
                probe,
                image.astype(np.float32),
                int(index),
                layer,
                seed,
                within,
            )
            grids.append(_scaled(SAMPLINGS[method](question)))
        return np.stack(grids)

    def _check(self, images: Pixels) -> None:
        size = (*self.manifest.input_size, 3)
        if images.dtype != np.uint8 or images.shape[1:] != size or len(images) == 0:
            raise ValueError(
                f"pictures of uint8 {size} are taken, not {images.dtype} of {images.shape}"
            )

    def _check_classes(self, classes: Classes) -> None:
        count = self._classes()
        if np.any((classes < 0) | (classes >= count)):
            raise ValidationFailed(f"class_index is 0 to {count - 1} for '{self.manifest.model}'.")

    def _classes(self) -> int:
        if self.manifest.classes is None:
            raise ValidationFailed(
                f"'{self.manifest.model}' version {self.manifest.version} is a base without a "
                "classifier: it has no classes to explain. Its activations and filters can be seen."
            )
        return self.manifest.classes

    def _asked_of_classes(self) -> Probe:
        self._classes()
        return self._asked()

    def _asked(self) -> Probe:
        with self._loading:
            if self._probe is None:
                self._probe = Probe(
                    read_whole(self._folder / KERAS_MODEL),
                    _PREPROCESSING.validate_python(self.manifest.preprocessing),
                    max_batch_size=self._max_batch_size,
                )
            return self._probe

    def _served(self) -> VersionPredictor:
        with self._loading:
            if self._predictor is None:
                self._predictor = VersionPredictor(
                    self._folder, max_batch_size=self._max_batch_size
                )
            return self._predictor


def _scaled(evidence: Grids) -> Grids:
    """Positive evidence over its maximum; zeros where there is none, or no number."""
    positive = np.where(np.isfinite(evidence), np.maximum(evidence, 0), 0).astype(np.float32)
    return positive / (positive.max() or np.float32(1))


def _ignored(fraction: float) -> None:
    del fraction

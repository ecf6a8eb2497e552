"""Classification and explanations in this process, from the store, where no server runs.

A published network that is not in the store yet is imported first, as a worker does it.
"""

import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from pydantic import TypeAdapter
from rich.console import Console

from cli.clients.types import ClassifyOptions, ImageFile, OverlayOptions, empty_response
from cli.home import Home
from cli.output import CommandError, as_command_error, suppress_logs, waiting
from cli.running_home import is_home
from cli.settings import address
from cli.startup import known_networks, using_home
from contracts.errors import ModelNotFound, OpsinError
from contracts.inference.heatmap import HeatmapResponse
from contracts.inference.inference import InferenceResponse, ItemError, ItemResult, Timing
from contracts.queue.explain_messages import ExplainReply, ExplainRequest
from contracts.queue.messages import TOP_CLASS, Pixels, Vector
from contracts.settings import Settings
from models.catalog import CATALOG, Network
from models.explain.results import heatmap_layer, heatmap_of, region_of
from models.export.catalog_weights import IMPORT_SECONDS, start_import
from models.images.decode import DecodedImage, decode
from models.images.resize import visible_box
from models.rendering.colormaps import Colormap
from models.rendering.heatmap import RenderOptions, render
from models.serving.outputs import predictions_of
from models.serving.runtime import RuntimeOptions
from models.store.labels import read_labels
from models.store.store import Store
from models.weights.catalog import Weights

if TYPE_CHECKING:
    from models.explain.explainer import Explainer
    from models.serving.predictor import VersionPredictor

_BATCH = 16
_COLORMAP: TypeAdapter[Colormap] = TypeAdapter(Colormap)


@dataclass(frozen=True, slots=True)
class _Decoded:
    """The images before the network: pixels of the good ones, a result for every one."""

    pixels: list[Pixels]
    results: list[ItemResult]
    milliseconds: float


class LocalClient:
    """An `InferenceClient` that loads one version itself.

    Args:
        model: Its model.
        version: Its number; the version is in the store.
    """

    def __init__(self, settings: Settings, model: str, version: int) -> None:
        self._settings = settings
        self._model, self._version = model, version
        store = Store(settings.store_home)
        self._folder = store.path(model, version)
        self._manifest = store.manifest(model, version)
        self._explainer: Explainer | None = None
        self._predictor: VersionPredictor | None = None

    @classmethod
    def open(cls, settings: Settings, model: str | None) -> Self:
        """For the named model, or otherwise the first of OPSIN_MODELS that is on this machine.

        Raises:
            CommandError: No such model has a classifier here.
        """
        with as_command_error():
            if model is not None:
                try:
                    return cls(settings, model, _find_version(settings, model))
                except OpsinError as error:
                    raise CommandError(f"{error.detail}{_elsewhere(settings)}") from None
            reasons = []
            for network in known_networks(settings):
                if network.classes is None:
                    continue
                try:
                    return cls(settings, network.name, _find_version(settings, network.name))
                except (OpsinError, CommandError) as error:
                    reasons.append(str(error))
            if reasons and (hint := _elsewhere(settings)):
                raise CommandError(f"No network is here.{hint}")
            raise CommandError("\n".join(reasons) or "OPSIN_MODELS names no network with classes.")

    def classify(self, images: list[ImageFile], options: ClassifyOptions) -> InferenceResponse:
        with as_command_error():
            return self._classify(images, options)

    def explain(self, image: bytes, options: OverlayOptions) -> bytes:
        with as_command_error():
            return self._explain(image, options)

    def explain_numbers(self, image: bytes, options: OverlayOptions) -> dict[str, Any]:
        with as_command_error():
            return self._explain_numbers(image, options)

    def _classify(self, images: list[ImageFile], options: ClassifyOptions) -> InferenceResponse:
        started = time.perf_counter()
        decoded = self._decode(images, options)
        if not decoded.pixels:
            return empty_response(self._model).model_copy(
                update={"version": self._version, "results": decoded.results}
            )
        with suppress_logs() as console:
            predictor = self._load_predictor(console)
            began = time.perf_counter()
            rows = iter(predictor.run("classify", np.stack(decoded.pixels)))
            compute = (time.perf_counter() - began) * 1000
        for result in decoded.results:
            if result.error is None:
                result.predictions = predictions_of(next(rows), predictor.labels, options.top)
        timing = Timing(
            decode=decoded.milliseconds,
            queue=0,
            compute=compute,
            total=(time.perf_counter() - started) * 1000,
        )
        return InferenceResponse(
            model=self._model,
            version=self._version,
            batch_size=min(len(decoded.pixels), _BATCH),
            results=decoded.results,
            timing_ms=timing,
        )

    def _decode(self, images: list[ImageFile], options: ClassifyOptions) -> _Decoded:
        pixels: list[Pixels] = []
        results: list[ItemResult] = []
        slowest = 0.0
        limit = self._settings.max_image_pixels
        for file in images:
            began = time.perf_counter()
            result = ItemResult.model_validate({"name": file.name})
            try:
                image = decode(
                    file.data, network=self._manifest, resize=options.resize, max_pixels=limit
                )
            except OpsinError as error:
                result.error = ItemError(code=error.code, detail=error.detail)
            else:
                pixels.append(image.pixels)
                result.width, result.height = image.width, image.height
            results.append(result)
            slowest = max(slowest, (time.perf_counter() - began) * 1000)
        return _Decoded(pixels, results, slowest)

    def _load_predictor(self, console: Console) -> "VersionPredictor":
        if self._predictor is not None:
            return self._predictor
        with waiting(console, f"Loading {self._model}"):
            from models.serving.predictor import VersionPredictor  # half a second

            options = RuntimeOptions.of(self._settings)
            if options.engine == "tensorflow":
                from models.serving.devices import prepare_tensorflow  # TensorFlow

                prepare_tensorflow(options.threads)
            self._predictor = VersionPredictor(self._folder, max_batch_size=_BATCH, options=options)
        return self._predictor

    def _explain(self, data: bytes, options: OverlayOptions) -> bytes:
        vector, reply, image = self._explained(data, options)
        manifest = self._manifest
        size = (image.width, image.height)
        return render(
            data,
            [heatmap_layer(vector, reply, read_labels(self._folder), options.method)],
            size=size,
            box=visible_box(size, manifest, None),
            options=RenderOptions(
                options.view,
                _COLORMAP.validate_python(options.colormap),
                options.alpha,
                options.legend,
                compact=True,
            ),
            max_pixels=self._settings.max_image_pixels,
        )

    def _explain_numbers(self, data: bytes, options: OverlayOptions) -> dict[str, Any]:
        began = time.perf_counter()
        vector, reply, image = self._explained(data, options)
        heatmap = heatmap_of(vector, reply, read_labels(self._folder), cached=False)
        spent = (time.perf_counter() - began) * 1000
        size = (image.width, image.height)
        box = visible_box(size, self._manifest, None)
        return HeatmapResponse(
            **heatmap.model_dump(),
            width=image.width,
            height=image.height,
            region=region_of(box),
            model=self._model,
            version=self._version,
            method=options.method,
            layer=reply.layer,
            timing_ms=Timing(decode=0, queue=0, compute=spent, total=spent),
        ).model_dump(mode="json", exclude_none=True)

    def _explained(
        self, data: bytes, options: OverlayOptions
    ) -> tuple[Vector, ExplainReply, DecodedImage]:
        """The heatmap's numbers, what they mean, and the image."""
        explainer = self._load_explainer()
        manifest = self._manifest
        image = decode(data, network=manifest, max_pixels=self._settings.max_image_pixels)
        from models.explain.answer import ExplainReplyBuilder  # TensorFlow

        index = TOP_CLASS if options.class_index is None else options.class_index
        ((vector, note),) = ExplainReplyBuilder(
            explainer, manifest.explain_layer, lambda: None
        ).build(
            ExplainRequest(method=options.method, layer=options.layer),
            image.pixels[np.newaxis],
            np.array([index], np.int32),
        )
        return vector, ExplainReply.model_validate_json(note), image

    def _load_explainer(self) -> "Explainer":
        if self._explainer is None:
            from models.explain.explainer import Explainer
            from models.serving.devices import prepare_tensorflow  # TensorFlow

            prepare_tensorflow(self._settings.worker_threads)
            options = RuntimeOptions.of(self._settings)
            self._explainer = Explainer(self._folder, max_batch_size=_BATCH, options=options)
        return self._explainer


def _elsewhere(settings: Settings) -> str:
    """That the installation is probably in another folder; empty where it is named or here."""
    if "home" in settings.model_fields_set or is_home(settings.home):
        return ""
    return (
        f" {settings.home.resolve()} is not the home of an installation, and no service answers at "
        f"{address(settings)}. Start it with `opsin up` in its folder, or name its home: "
        "export OPSIN_HOME=/path/to/opsin/var"
    )


def _find_version(settings: Settings, model: str) -> int:
    """The number of a model's champion; a published network is imported if it is not in the store.

    Raises:
        ModelNotFound: There is no such model.
        WeightsMissing: It is a published network whose weights are not on this machine.
        CommandError: It has no classes, or cannot be imported.
    """
    store = Store(settings.store_home)
    try:
        version = store.resolve(model, None)
        if store.manifest(model, version).classes is not None:
            return version
    except ModelNotFound:
        if model not in CATALOG:
            raise
    network = CATALOG.get(model)
    if network is None or network.classes is None:
        raise CommandError(f"{model} has no classes.")
    Weights.of(settings).find(network.weights)
    _import_network(settings, network)
    return store.resolve(model, None)


def _import_network(settings: Settings, network: Network) -> None:
    Home(settings.home).prepare()
    with (
        using_home(settings),
        suppress_logs() as console,
        waiting(console, f"Importing {network.name} into the store, once"),
        start_import(settings, network.name) as child,
    ):
        try:
            status = child.wait(IMPORT_SECONDS)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            child.kill()
    if status != 0:
        raise CommandError(
            f"{network.name} could not be imported into the store. "
            "`opsin up` imports it too, and its worker's log says what is wrong."
        )

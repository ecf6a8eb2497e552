"""The job behind `/v1/filters`: from a request to a contact sheet of patterns."""

from typing import Any

from pydantic import TypeAdapter

from contracts.inference.explanation import FiltersRequest
from contracts.jobs import Progress
from contracts.settings import Settings
from contracts.work import Work
from models.catalog import Preprocessing
from models.explain.filters import Ascent, Filters, Patterns
from models.explain.layer_graph import LayerGraph, layers_of
from models.explain.layers import explainable_layer
from models.export.saved_model import KERAS_MODEL
from models.networks.keras_files import read_whole
from models.networks.precision import fastest_precision
from models.rendering.contact_sheet import Tile, contact_sheet, to_png
from models.serving.devices import prepare_tensorflow
from models.store.store import Store

FILTERS = 25
ARTIFACT = "filters.png"


def run(work: Work, settings: Settings) -> dict[str, Any]:
    """Compute the patterns of a `FiltersRequest`; the contact sheet becomes an artifact.

    Returns:
        The resolved request, and each filter's mean activation at the end.

    Raises:
        ModelNotFound: There is no such model.
        VersionNotFound: It has no such version.
        LayerNotFound: It has no such layer.
        ValidationFailed: The layer has no maps, or not that many, or the images are too small.
        WorkStoppedError: The job was cancelled.
    """
    request = FiltersRequest.model_validate(work.request)
    prepare_tensorflow(settings.worker_threads)
    store, name = Store(settings.store_home), request.model or settings.models[0]
    version = store.resolve(name, request.version)
    manifest = store.manifest(name, version)
    work.progress(Progress(fraction=0, phase="model"))
    model = read_whole(store.path(name, version) / KERAS_MODEL)
    layer = request.layer or manifest.explain_layer
    explainable_layer(layers_of(LayerGraph.of(model)), layer)
    filters = Filters(
        model,
        TypeAdapter(Preprocessing).validate_python(manifest.preprocessing),
        layer,
        "float32" if settings.precision == "float32" else fastest_precision(),
    )
    numbers = request.filters or list(range(min(FILTERS, filters.count)))

    def progress(fraction: float) -> None:
        work.check()
        work.progress(Progress(fraction=fraction, phase="ascent"))

    patterns = filters.patterns(numbers, _ascent(request), progress=progress)
    title = f"{name} version {version}, {layer}"
    work.artifact(ARTIFACT, "image/png", _draw(patterns, numbers, title))
    return {
        "model": name,
        "version": version,
        "layer": layer,
        "filters": [
            {"index": number, "activation": float(activation), "blank": bool(blank)}
            for number, activation, blank in zip(
                numbers, patterns.activations, patterns.blank, strict=True
            )
        ],
    }


def _ascent(request: FiltersRequest) -> Ascent:
    return Ascent(
        steps=request.steps,
        step_size=request.step_size,
        image_size=request.image_size,
        octaves=request.octaves,
        octave_scale=request.octave_scale,
        jitter=request.jitter,
        seed=request.seed,
        contrast=request.contrast,
    )


def _draw(patterns: Patterns, numbers: list[int], title: str) -> bytes:
    tiles = [
        Tile(image, f"filter {number}", bool(blank))
        for image, number, blank in zip(patterns.images, numbers, patterns.blank, strict=True)
    ]
    return to_png(contact_sheet(tiles, title=title))

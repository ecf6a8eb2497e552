"""The job behind `/v1/dreams`: from a request and an image to `result.png`."""

from typing import Any

import keras
import tensorflow as tf
from pydantic import TypeAdapter

from contracts.create.requests import DREAM_SIDE, IMAGE_FILE, DreamRequest
from contracts.errors import InvalidImage
from contracts.jobs import Progress
from contracts.settings import Settings
from models.catalog import Preprocessing, network_of
from models.create.dream import Dream, DreamNetwork, octave_sizes
from models.create.dream_source import DreamSource, check_class, input_pixels, resolve_source
from models.create.images import enlarged, read_image, required, resized, scaled_size
from models.create.memory import check_tiled_memory
from models.create.run import ImageRun, ImageWork
from models.export.saved_model import KERAS_MODEL
from models.memory.machine import memory_limit
from models.networks.architecture import ARCHITECTURES
from models.networks.keras_files import read_whole
from models.networks.loading import load_weights
from models.networks.precision import fastest_precision
from models.serving.devices import prepare_tensorflow
from models.store.store import Store
from models.weights.catalog import Weights

_VGG = {"block4_conv3": 1.0, "block5_conv2": 1.0}
# Chosen by looking at dreams; other networks dream with the layer of their heatmaps.
_LAYERS: dict[str, dict[str, float]] = {
    "vgg16": _VGG,
    "vgg19": _VGG,
    "squeezenet": {"fire6_concat": 1.0, "fire8_concat": 1.0},
    "efficientnet_lite0": {"block6a_expand_activation": 1.0},
}
_UNSMOOTHED = frozenset({"vgg16", "vgg19", "squeezenet"})
"""Networks that pool, whose gradients have no pattern of dots."""
_SMOOTHING = 1.0


def run(work: ImageWork, settings: Settings) -> dict[str, Any]:
    """Run a `DreamRequest`, whose model and version are resolved; the result becomes an artifact.

    Returns:
        The settings that were used, the result's size, and warnings.

    Raises:
        OpsinError: There is no such model, version, layer or class, or memory does not suffice.
        WorkStoppedError: The job was stopped.
    """
    request = DreamRequest.model_validate(work.request)
    prepare_tensorflow(settings.job_threads)
    # The numbers of a second attempt must be those of the first.
    tf.config.experimental.enable_op_determinism()
    try:
        data = (work.folder / IMAGE_FILE).read_bytes()
    except FileNotFoundError:
        raise InvalidImage("The image of this job was lost. Send the request again.") from None
    image = read_image(data, request.size or DREAM_SIDE, settings.max_image_pixels)
    size = image.size if request.size is None else scaled_size(image.size, request.size)
    limit, least = memory_limit(settings.training_memory_mb), input_pixels(request, settings)
    check_tiled_memory(size, limit, request.tile_size, least)
    work.progress(Progress(fraction=0, phase="model"))
    network, used = _network(request, settings)
    request = request.model_copy(update={"smoothing": used["smoothing"]})
    if network.fixed_size is None:
        if request.size is None:
            size = enlarged(size, network.minimum_side)
        required(size, network.minimum_side)
    used |= {"width": size[0], "height": size[1], "step_levels": request.step_levels}
    octaves = octave_sizes(size, request, network.minimum_side)
    run_ = ImageRun(
        work,
        steps=len(octaves) * request.iterations,
        settings=used,
        preview_every=request.preview_every,
        max_seconds=request.max_seconds,
    )
    run_.finish(Dream(network, request, resized(image, size)).run(run_))
    return used | run_.summary() | {"warnings": request.warnings}


def _network(request: DreamRequest, settings: Settings) -> tuple[DreamNetwork, dict[str, Any]]:
    """The network with its targets, and the request filled in."""
    store, weights = Store(settings.store_home), Weights.of(settings)
    source = resolve_source(
        request.model, request.version, store=store, weights=weights, models=settings.models
    )
    name, model, preprocessing, default = (
        _published_base(source.model, weights, request)
        if source.version is None
        else _stored_version(store, source.model, source.version)
    )
    layers = dream_layers(request, default)
    smoothing = 0.0 if name in _UNSMOOTHED else _SMOOTHING
    network = DreamNetwork(
        model,
        preprocessing,
        layers,
        class_index=request.class_index,
        class_weight=request.class_weight,
        precision="float32" if settings.precision == "float32" else fastest_precision(),
    )
    fields = request.model_dump(mode="json", exclude_none=True, exclude={"preview_every"})
    used = {"kind": "dream", **fields, "model": source.model, "layers": list(layers)}
    used.setdefault("smoothing", smoothing)
    return network, used if source.version is None else used | {"version": source.version}


def _stored_version(
    store: Store, name: str, version: int
) -> tuple[str, keras.Model, Preprocessing, dict[str, float]]:
    """A version's network, by name and with weights, its preprocessing and its default layers."""
    manifest = store.manifest(name, version)
    model = read_whole(store.path(name, version) / KERAS_MODEL)
    preprocessing = TypeAdapter(Preprocessing).validate_python(manifest.preprocessing)
    chosen = _LAYERS.get(manifest.network, {})
    if not chosen or not {layer.name for layer in model.layers}.issuperset(chosen):
        chosen = {manifest.explain_layer: 1.0}
    return manifest.network, model, preprocessing, chosen


def _published_base(
    name: str, weights: Weights, request: DreamRequest
) -> tuple[str, keras.Model, Preprocessing, dict[str, float]]:
    """As `_stored_version`, of a network of the catalog without its classifier."""
    check_class(DreamSource(name, None), request.class_index, 0)
    network = network_of(name)
    file = weights.find(network.base_weights or network.weights)
    build = ARCHITECTURES[name].build
    model = build(input_shape=(None, None, 3), include_top=False)
    load_weights(model, name, file.path, file.format)
    return name, model, network.preprocessing, _LAYERS.get(name, {network.explain_layer: 1.0})


def dream_layers(request: DreamRequest, default: dict[str, float]) -> dict[str, float]:
    """The layers to excite and their weights; none if there is only a class."""
    if request.layers is None:
        return {} if request.class_index is not None else default
    weights = request.layer_weights or [1.0] * len(request.layers)
    return dict(zip(request.layers, weights, strict=True))

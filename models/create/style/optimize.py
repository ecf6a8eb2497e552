"""`method=optimize` of a style transfer: opens the network and runs the descent."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import tensorflow as tf
from PIL import Image

from contracts.create.requests import StyleTransferRequest
from contracts.jobs import Progress
from contracts.settings import Settings
from models.create.features import LAYERS, FeatureNetwork
from models.create.images import required
from models.create.layer_names import required_layer
from models.create.memory import check_style_memory
from models.create.run import ImageRun, ImageWork
from models.create.style.fast import FastStyle
from models.create.style.job import StyleImages, paint_fast, used_settings
from models.create.style.objective import LossWeights, Objective
from models.create.style.plan import plan
from models.create.style.transfer import StyleTransfer
from models.create.style.weights import available_network
from models.memory.machine import memory_limit
from models.networks.precision import fastest_precision
from models.serving.devices import prepare_tensorflow
from models.weights.catalog import Weights


def optimize(
    work: ImageWork, request: StyleTransferRequest, settings: Settings, images: StyleImages
) -> dict[str, Any]:
    """Run the descent; see `models.create.style.job.run`."""
    prepare_tensorflow(settings.job_threads)
    # The numbers of a second attempt must be those of the first.
    tf.config.experimental.enable_op_determinism()
    weights = Weights.of(settings)
    network = available_network(weights, request.network)
    limit = memory_limit(settings.training_memory_mb)
    sizes = [style.size for style in images.styles]
    check_style_memory(images.size, network, limit, request.style_scale, sizes)
    objective, minimum_side = _objective(weights, request, settings)
    required(images.size, minimum_side)
    levels = plan(
        images.size, request.iterations, pyramid=request.pyramid, minimum_side=minimum_side
    )
    used = used_settings(request, images.size) | {"network": network}
    transfer = StyleTransfer(
        objective,
        request,
        content=images.content,
        styles=images.styles,
        levels=levels,
        start=_fast_start(weights, request, settings, images),
    )
    work.progress(Progress(fraction=0, phase="targets"))
    run = ImageRun(
        work,
        steps=request.iterations,
        preview_every=request.preview_every,
        max_seconds=request.max_seconds,
        settings=used,
    )
    pixels, losses = transfer.run(run)
    run.finish(pixels)
    return used | {"losses": None if losses is None else asdict(losses)} | run.summary()


def _objective(
    weights: Weights, request: StyleTransferRequest, settings: Settings
) -> tuple[Objective, int]:
    """The losses, and the smallest side of an image that they can be computed of."""
    name = available_network(weights, request.network)
    layers = LAYERS[name]
    content = _without_duplicates(name, request.content_layers or layers.content)
    style = _without_duplicates(name, request.style_layers or layers.style)
    network = FeatureNetwork.open(
        weights,
        name,
        [*content, *style],
        pooling=request.pooling,
        precision="float32" if settings.precision == "float32" else fastest_precision(),
    )
    factor = layers.factor(request.pooling)
    loss_weights = LossWeights(
        request.content_weight * layers.content_factor * factor,
        request.style_weight * layers.style_factor * factor,
        request.tv_weight,
        request.gram,
    )
    return Objective(network, len(content), loss_weights), network.minimum_side


def _without_duplicates(network: str, layers: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(required_layer(network, layer) for layer in layers))


def _fast_start(
    weights: Weights, request: StyleTransferRequest, settings: Settings, images: StyleImages
) -> Image.Image | None:
    """What `init=fast` begins with."""
    if request.init != "fast":
        return None
    network = FastStyle(weights, settings.job_threads)
    return Image.fromarray(paint_fast(network, request, images))

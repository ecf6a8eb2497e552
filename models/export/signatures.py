"""The endpoints of a version: TensorFlow functions from uint8 pictures to answers.

    serve          images                -> probabilities (n, classes)
    features       images                -> embedding (n, features)
    explain        images, class_index   -> grid (n, gh, gw), Grad-CAM; target, probability (n,)
    explain_hires  images, class_index   -> grid (n, gh, gw), HiResCAM; target, probability (n,)

`images` is uint8 RGB of the network's input size, (n, height, width, 3), any n; `class_index` is
int32 (n,), a negative one standing for the most probable class; `target` is the class that was
explained. Preprocessing is inside, so whoever runs the SavedModel cannot get it wrong. A base
without its classifier has `features` alone.

What the endpoints of a version are called; known without loading Keras or TensorFlow.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import keras
import tensorflow as tf

from contracts.inference.explanation import Method
from contracts.inference.manifest import Endpoint
from models.catalog import Network, Preprocessing
from models.explain.cam import WEIGHINGS, explained
from models.explain.head import head_of
from models.explain.layer_graph import Flat, Tensor
from models.networks.architecture import ARCHITECTURES
from models.networks.preprocessing import prepare

_EXPLANATIONS: dict[Endpoint, Method] = {"explain": "grad_cam", "explain_hires": "hires_cam"}


@dataclass(frozen=True, slots=True)
class Blueprint:
    """What has to be known of a network besides the Keras model.

    Attributes:
        network: Its architecture's name.
        short_side: See `models.catalog.Network`.
        preprocessing: See there.
        base_output: The layer whose maps, averaged, are the embedding; or the embedding itself.
        explain_layer: The layer whose maps explain a class.
    """

    network: str
    short_side: int
    preprocessing: Preprocessing
    base_output: str
    explain_layer: str

    @classmethod
    def of(cls, network: Network) -> Self:
        """That of a catalog row."""
        base_output = ARCHITECTURES[network.name].base_output
        return cls(
            network.name,
            network.short_side,
            network.preprocessing,
            base_output,
            network.explain_layer,
        )


@dataclass(frozen=True, slots=True)
class Signature:
    """One endpoint: a function and what it takes."""

    run: Callable[..., dict[str, Tensor]]
    inputs: tuple[Any, ...]


class NoProbabilitiesError(ValueError):
    """A network's output cannot be served as probabilities; the message says what to do."""


def is_base(flat: Flat, base_output: str) -> bool:
    """Whether a model ends in maps or in the embedding itself, without a classifier."""
    return len(flat.output.shape) == 4 or flat.output is flat.steps[base_output].output


def signatures(model: keras.Model, blueprint: Blueprint) -> dict[Endpoint, Signature]:
    """The endpoints of a flat model, `serve` first if it has one.

    Raises:
        NoProbabilitiesError: Its output is neither a softmax nor a sigmoid, nor maps.
    """
    height, width, channels = model.inputs[0].shape[1:]
    images = tf.TensorSpec((None, height, width, 3), tf.uint8, name="images")
    classes = tf.TensorSpec((None,), tf.int32, name="class_index")

    def prepared(pictures: Tensor) -> Tensor:
        return prepare(blueprint.preprocessing, pictures, channels)

    def forward(
        endpoint: Endpoint, part: keras.Model, told: Callable[[Tensor], Tensor] = lambda x: x
    ) -> Signature:
        return Signature(
            lambda images: {OUTPUTS[endpoint]: told(part(prepared(images), training=False))},
            (images,),
        )

    def explanation(endpoint: Endpoint, method: Method) -> Signature:
        explain = explained(flat, head, blueprint.explain_layer, WEIGHINGS[method])

        def run(images: Tensor, class_index: Tensor) -> dict[str, Tensor]:
            told = explain(prepared(images), class_index)
            outputs = (OUTPUTS[endpoint], TARGET, PROBABILITY)
            return dict(zip(outputs, told, strict=True))

        return Signature(run, (images, classes))

    flat = Flat.of(model)
    features = forward("features", _pooled(flat, blueprint.base_output))
    if is_base(flat, blueprint.base_output):
        return {"features": features}
    head = head_of(flat)
    if not head.is_classifier:
        raise NoProbabilitiesError(
            "the network ends in neither a softmax nor a sigmoid: its output is no probability. "
            "Give it a last layer with one of the two"
        )
    explanations = {name: explanation(name, method) for name, method in _EXPLANATIONS.items()}
    serve = forward("serve", model, head.probabilities) if head.is_binary else None
    return {"serve": serve or forward("serve", model), "features": features, **explanations}


def _pooled(flat: Flat, layer: str) -> keras.Model:
    found = flat.steps[layer].output
    if len(found.shape) == 4:
        found = keras.layers.GlobalAveragePooling2D()(found)
    return flat.to(found)


GRID = "grid"

OUTPUTS: dict[Endpoint, str] = {
    "serve": "probabilities",
    "features": "embedding",
    "explain": GRID,
    "explain_hires": GRID,
}
"""What each endpoint calls its output, the one that is compared when it is exported."""

TARGET = "target"
PROBABILITY = "probability"
"""What the explaining endpoints give beside the grid. Versions made before lack them."""

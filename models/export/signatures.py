"""The endpoints of a version: TensorFlow functions of uint8 images.

    serve          images                -> probabilities (n, classes)
    features       images                -> embedding (n, features)
    explain        images, class_index   -> grid (n, gh, gw), Grad-CAM; target, probability (n,)
    explain_hires  images, class_index   -> grid (n, gh, gw), HiResCAM; target, probability (n,)

`images` is uint8 RGB of the network's input size, (n, height, width, 3), any n; `class_index` is
int32 (n,), where a negative index means the most probable class; `target` is the class that was
explained. Preprocessing is included, so that users of the SavedModel cannot get it wrong. A base
without a classifier has only `features`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import keras
import tensorflow as tf

from contracts.inference.explanation import Method
from contracts.inference.manifest import Endpoint, Geometry
from models.catalog import Network, Preprocessing
from models.explain.cam import WEIGHINGS, cam_function
from models.explain.head import head_of
from models.explain.layer_graph import LayerGraph, Tensor
from models.export.endpoints import OUTPUTS, PROBABILITY, TARGET
from models.networks.architecture import ARCHITECTURES
from models.networks.preprocessing import prepare

_EXPLANATIONS: dict[Endpoint, Method] = {"explain": "grad_cam", "explain_hires": "hires_cam"}


@dataclass(frozen=True, slots=True)
class Blueprint:
    """What an export has to know about a network in addition to the Keras model.

    Attributes:
        network: Name of the architecture.
        short_side: See `models.catalog.Network`.
        geometry: See `models.catalog.Network`.
        preprocessing: See `models.catalog.Network`.
        base_output: The layer whose averaged maps are the embedding, or which is the embedding.
        explain_layer: The layer whose feature maps explain a class.
    """

    network: str
    short_side: int
    geometry: Geometry
    preprocessing: Preprocessing
    base_output: str
    explain_layer: str

    @classmethod
    def of(cls, network: Network) -> Self:
        """The blueprint of a catalog network."""
        base_output = ARCHITECTURES[network.name].base_output
        return cls(
            network.name,
            network.short_side,
            network.geometry,
            network.preprocessing,
            base_output,
            network.explain_layer,
        )


@dataclass(frozen=True, slots=True)
class EndpointFunction:
    """One endpoint: a function and the specs of its inputs."""

    run: Callable[..., dict[str, Tensor]]
    inputs: tuple[Any, ...]


class NoProbabilitiesError(ValueError):
    """The output of a network is not probabilities; the message says what to do."""


def is_base(graph: LayerGraph, base_output: str) -> bool:
    """Whether a model has no classifier: its output is feature maps or the embedding."""
    return len(graph.output.shape) == 4 or graph.output is graph.nodes[base_output].output


def signatures(model: keras.Model, blueprint: Blueprint) -> dict[Endpoint, EndpointFunction]:
    """The endpoints of a flat model, `serve` first if it has one.

    Raises:
        NoProbabilitiesError: Its output is neither a softmax, a sigmoid nor feature maps.
    """
    height, width, channels = model.inputs[0].shape[1:]
    images = tf.TensorSpec((None, height, width, 3), tf.uint8, name="images")
    classes = tf.TensorSpec((None,), tf.int32, name="class_index")

    def prepared(images: Tensor) -> Tensor:
        return prepare(blueprint.preprocessing, images, channels)

    def forward(
        endpoint: Endpoint, part: keras.Model, convert: Callable[[Tensor], Tensor] = lambda x: x
    ) -> EndpointFunction:
        return EndpointFunction(
            lambda images: {OUTPUTS[endpoint]: convert(part(prepared(images), training=False))},
            (images,),
        )

    def explanation(endpoint: Endpoint, method: Method) -> EndpointFunction:
        explain = cam_function(graph, head, blueprint.explain_layer, WEIGHINGS[method])

        def run(images: Tensor, class_index: Tensor) -> dict[str, Tensor]:
            outputs = explain(prepared(images), class_index)
            names = (OUTPUTS[endpoint], TARGET, PROBABILITY)
            return dict(zip(names, outputs, strict=True))

        return EndpointFunction(run, (images, classes))

    graph = LayerGraph.of(model)
    features = forward("features", _pooled(graph, blueprint.base_output))
    if is_base(graph, blueprint.base_output):
        return {"features": features}
    head = head_of(graph)
    if not head.is_classifier:
        raise NoProbabilitiesError(
            "the last layer is neither a softmax nor a sigmoid, so its output is no probability. "
            "Use one of the two as the last layer"
        )
    explanations = {name: explanation(name, method) for name, method in _EXPLANATIONS.items()}
    serve = forward("serve", model, head.probabilities) if head.is_binary else None
    return {"serve": serve or forward("serve", model), "features": features, **explanations}


def _pooled(graph: LayerGraph, layer: str) -> keras.Model:
    output = graph.nodes[layer].output
    if len(output.shape) == 4:
        output = keras.layers.GlobalAveragePooling2D()(output)
    return graph.model_to(output)

"""The networks whose features measure content and style, and the layers that do."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from contracts.create.requests import Pooling, StyleNetwork
from contracts.errors import LayerNotFound
from contracts.suggestions import similar
from models.create.edges import EdgeConv2D, is_padded
from models.create.style.weights import weight_file
from models.create.winograd import with_winograd
from models.explain.filters import smallest_side
from models.networks.architecture import ARCHITECTURES
from models.networks.loading import load_weights
from models.networks.precision import Precision, with_precision
from models.networks.preprocessing import caffe
from models.weights.catalog import Weights

Tensor = Any
_LARGEST_MINIMUM = 64


@dataclass(frozen=True, slots=True)
class StyleLayers:
    """Names of the layers, and the factors that bring their losses to one scale.

    Attributes:
        content: Of the content loss.
        style: Of the style loss.
        content_factor: Makes a weight of 1 a good one; found by looking at results.
        style_factor: Likewise.
        max_pooling_factor: Of both losses, since maxima leave larger activations than averages.
    """

    content: tuple[str, ...]
    style: tuple[str, ...]
    content_factor: float
    style_factor: float
    max_pooling_factor: float = 1.0

    def factor(self, pooling: Pooling) -> float:
        """Balances these losses with that of total variation, which no network scales."""
        return self.max_pooling_factor if pooling == "max" else 1.0


_VGG = StyleLayers(
    ("block4_conv2",),
    tuple(f"block{block}_conv1" for block in range(1, 6)),
    1.0,
    1e-3,
    1 / 16,
)
LAYERS: dict[StyleNetwork, StyleLayers] = {
    "vgg19": _VGG,
    "vgg16": _VGG,
    "squeezenet": StyleLayers(
        ("fire4_concat",),
        ("relu_conv1", "fire3_concat", "fire5_concat", "fire7_concat", "fire9_concat"),
        1.0,
        1e-3,
    ),
}


class FeatureNetwork:
    """Maps of some layers for an image of any size.

    Args:
        model: A base without its classifier, float32 BGR minus the means in.
        layers: The layers whose maps are wanted, without duplicates.
        pooling: ``average`` replaces the network's maxima.
        precision: To compute in; the maps are float32.

    Attributes:
        minimum_side: Pixels of the smallest image that leaves no map empty.
    """

    def __init__(
        self, model: keras.Model, layers: Sequence[str], pooling: Pooling, precision: Precision
    ) -> None:
        known = [layer.name for layer in model.layers]
        for name in layers:
            if name not in known:
                raise LayerNotFound(
                    f"{model.name} has no layer '{name[:64]}'.{similar(name[:64], known)}"
                )
        model = _adapted(model, pooling)
        part = keras.Model(model.inputs, [model.get_layer(name).output for name in layers])
        self._part = with_precision(part, precision)
        self._repeated = self._part
        self._is_plain = precision != "float32" or bool(tf.config.list_physical_devices("GPU"))
        self.layers = tuple(layers)
        self.minimum_side = smallest_side(part, _LARGEST_MINIMUM) or _LARGEST_MINIMUM

    @classmethod
    def open(
        cls,
        weights: Weights,
        network: StyleNetwork,
        layers: Sequence[str],
        *,
        pooling: Pooling = "average",
        precision: Precision = "float32",
    ) -> "FeatureNetwork":
        """The network with its published weights.

        Raises:
            WeightsMissing: They are not on this machine.
            LayerNotFound: It has no such layer.
        """
        model = ARCHITECTURES[network].build(input_shape=(None, None, 3), include_top=False)
        file = weight_file(weights, network)
        load_weights(model, network, file.path, file.format)
        return cls(model, layers, pooling, precision)

    def prepare_repeated(self) -> None:
        """Before the first call with `repeated`; adds four times the size of the larger kernels."""
        if self._repeated is self._part and not self._is_plain:
            self._repeated = with_winograd(self._part)

    def __call__(self, image: Tensor, *, repeated: bool = False) -> list[Tensor]:
        """The maps of each layer.

        Args:
            image: float32 RGB (1, height, width, 3), levels of 0 to 255.
            repeated: Whether more images of this size follow, so that compiling for it pays.

        Returns:
            float32 (1, height, width, channels) for each layer.
        """
        part = self._repeated if repeated else self._part
        maps = keras.tree.flatten(part(caffe(image), training=False))
        return [tf.cast(one, tf.float32) for one in maps]

    def channels(self) -> list[int]:
        """Channels of each layer."""
        return [int(output.shape[-1]) for output in self._part.outputs]


def _adapted(model: keras.Model, pooling: Pooling) -> keras.Model:
    """A copy whose convolutions continue the image past its edges, and with that pooling."""

    def clone(layer: keras.Layer) -> keras.Layer:
        kind = type(layer)
        if is_padded(layer):
            kind = EdgeConv2D
        elif pooling == "average" and isinstance(layer, keras.layers.MaxPooling2D):
            kind = keras.layers.AveragePooling2D
        return kind.from_config(layer.get_config())

    copy = keras.models.clone_model(model, clone_function=clone)
    copy.set_weights(model.get_weights())
    return copy

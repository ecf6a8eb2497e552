"""What a network computes in where its answers need not be float32's to the last bit."""

from pathlib import Path
from typing import Literal

import keras
import tensorflow as tf

Precision = Literal["float32", "bfloat16"]

_CPU_INFO = Path("/proc/cpuinfo")
_BFLOAT16_UNITS = frozenset({"avx512_bf16", "amx_bf16"})


def quickest_precision() -> Precision:
    """bfloat16 on a processor with units for it, which takes half the time; else float32.

    On a GPU it is float32: what bfloat16 gains there is the runtime's and the training's to say.
    """
    quicker = not tf.config.list_physical_devices("GPU") and has_bfloat16()
    return "bfloat16" if quicker else "float32"


def has_bfloat16() -> bool:
    """Whether the processor has units for bfloat16."""
    try:
        return bool(_BFLOAT16_UNITS & set(_CPU_INFO.read_text().split()))
    except OSError:
        return False


def in_precision(model: keras.Model, precision: Precision) -> keras.Model:
    """The network, or a copy that computes in bfloat16 with the same weights in float32."""
    if precision == "float32":
        return model

    def clone(layer: keras.Layer) -> keras.Layer:
        if not isinstance(layer, keras.Layer):
            return layer  # an operator in the graph: it computes in what it is given
        config = layer.get_config() | {"dtype": "mixed_bfloat16"}
        return type(layer).from_config(config)

    copy = keras.models.clone_model(model, clone_function=clone)
    copy.set_weights(model.get_weights())
    for layer in copy.layers:
        # What it learnt of its data are weights, but it computes with what it makes of them once.
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()
    return copy

"""The number format in which a network computes, if small deviations are acceptable."""

from pathlib import Path
from typing import Literal

import keras
import tensorflow as tf

Precision = Literal["float32", "bfloat16"]

_CPU_INFO = Path("/proc/cpuinfo")
_BFLOAT16_UNITS = frozenset({"avx512_bf16", "amx_bf16"})


def fastest_precision() -> Precision:
    """bfloat16 on a processor with units for it, where it takes half the time; otherwise float32.

    On a GPU it is float32, because runtime and training decide about bfloat16 there.
    """
    is_faster = not tf.config.list_physical_devices("GPU") and has_bfloat16()
    return "bfloat16" if is_faster else "float32"


def has_bfloat16() -> bool:
    """Whether the processor has units for bfloat16."""
    try:
        return bool(_BFLOAT16_UNITS & set(_CPU_INFO.read_text().split()))
    except OSError:
        return False


def with_precision(model: keras.Model, precision: Precision) -> keras.Model:
    """Return the network, or a copy that computes in bfloat16 with the same float32 weights."""
    if precision == "float32":
        return model

    def clone(layer: keras.Layer) -> keras.Layer:
        if not isinstance(layer, keras.Layer):
            return layer  # an operator, which computes in the format of its inputs
        config = layer.get_config() | {"dtype": "mixed_bfloat16"}
        return type(layer).from_config(config)

    copy = keras.models.clone_model(model, clone_function=clone)
    copy.set_weights(model.get_weights())
    for layer in copy.layers:
        # Its statistics are weights, but it computes with values derived from them once.
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()
    return copy

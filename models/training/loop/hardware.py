"""What a training computes on: the GPUs, and the precision that suits them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Self

import keras
import tensorflow as tf

from contracts.training.trainings import TrainingRequest
from models.networks.precision import Precision, fastest_precision
from models.serving.devices import devices

Policy = Literal["float32", "mixed_float16", "mixed_bfloat16"]

_TENSOR_CORES = (7, 0)  # Volta: float16 matrices, which need loss scaling
_BFLOAT16 = (8, 0)  # Ampere: bfloat16 has float32's range and needs no loss scaling


@dataclass(frozen=True, slots=True)
class Hardware:
    """The devices and the precision of a training.

    Attributes:
        policy: Keras's name of the precision.
        strategy: A MirroredStrategy if there are several GPUs; otherwise TensorFlow's default.
        names: Names of the devices, for the report.
    """

    policy: Policy
    strategy: Any
    names: tuple[str, ...]

    @classmethod
    def of(cls, request: TrainingRequest) -> Self:
        """This machine, in the precision that a request asks for."""
        gpus = tf.config.list_physical_devices("GPU")
        logical = tf.config.list_logical_devices("GPU")
        several = len(logical) > 1
        strategy = tf.distribute.MirroredStrategy() if several else tf.distribute.get_strategy()
        if gpus:
            # Otherwise a GPU adds in any order, and the same seed gives different results.
            tf.config.experimental.enable_op_determinism()
        capabilities = [
            tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0))
            for gpu in gpus
        ]
        return cls(_policy(request.mixed_precision, capabilities), strategy, devices())

    def feature_precision(self, request: TrainingRequest) -> Precision:
        """The precision of a frozen base for training images.

        A processor with bfloat16 instructions takes half the time, and a head trains as well on
        features with a relative error of 1/256. Features of validation and test images are always
        computed in float32, like the exported files that are compared with them.
        """
        return "float32" if request.mixed_precision == "off" else fastest_precision()

    @property
    def replicas(self) -> int:
        """Number of devices that share a batch."""
        return int(self.strategy.num_replicas_in_sync)

    @contextmanager
    def building(self) -> Iterator[None]:
        """Networks built inside this context use the precision and all devices."""
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(self.policy)
        try:
            with self.strategy.scope():
                yield
        finally:
            keras.config.set_dtype_policy(before)


def _policy(mode: Literal["auto", "on", "off"], capabilities: list[tuple[int, int]]) -> Policy:
    if mode == "off" or (mode == "auto" and not capabilities):
        return "float32"
    if not capabilities or min(capabilities) >= _BFLOAT16:
        return "mixed_bfloat16"
    if min(capabilities) >= _TENSOR_CORES or mode == "on":
        return "mixed_float16"
    return "float32"

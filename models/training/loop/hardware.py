"""What a training computes on: how many GPUs, and in which precision they gain."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Self

import keras
import tensorflow as tf

from contracts.training.trainings import TrainingRequest
from models.networks.precision import Precision, quickest_precision
from models.serving.devices import devices

Policy = Literal["float32", "mixed_float16", "mixed_bfloat16"]

_TENSOR_CORES = (7, 0)  # Volta: float16 matrices, with a scaled loss
_BFLOAT16 = (8, 0)  # Ampere: bfloat16 has float32's range, so nothing has to be scaled


@dataclass(frozen=True, slots=True)
class Hardware:
    """Where and how.

    Attributes:
        policy: Keras's name of the precision.
        strategy: A MirroredStrategy over all GPUs if there are several, else TensorFlow's default.
        names: Of the devices, for the record.
    """

    policy: Policy
    strategy: Any
    names: tuple[str, ...]

    @classmethod
    def of(cls, request: TrainingRequest) -> Self:
        """This machine, as the request wants it used."""
        gpus = tf.config.list_physical_devices("GPU")
        logical = tf.config.list_logical_devices("GPU")
        several = len(logical) > 1
        strategy = tf.distribute.MirroredStrategy() if several else tf.distribute.get_strategy()
        if gpus:
            # Sums on a GPU come in any order unless told; a seed would promise too much.
            tf.config.experimental.enable_op_determinism()
        capabilities = [
            tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0))
            for gpu in gpus
        ]
        return cls(_policy(request.mixed_precision, capabilities), strategy, devices())

    def learning_features(self, request: TrainingRequest) -> Precision:
        """What a frozen base computes in for the pictures that are learned from.

        A processor with units for bfloat16 takes half the time, and a head learns the same from
        features that are off by a 256th. What is measured, on validation and test pictures, is
        always computed in float32, like the files that are compared with it.
        """
        return "float32" if request.mixed_precision == "off" else quickest_precision()

    @property
    def replicas(self) -> int:
        """How many share a batch."""
        return int(self.strategy.num_replicas_in_sync)

    @contextmanager
    def building(self) -> Iterator[None]:
        """Networks built inside have the precision and live on all devices."""
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(self.policy)
        try:
            with self.strategy.scope():
                yield
        finally:
            keras.config.set_dtype_policy(before)


def _policy(wanted: Literal["auto", "on", "off"], capabilities: list[tuple[int, int]]) -> Policy:
    if wanted == "off" or (wanted == "auto" and not capabilities):
        return "float32"
    if not capabilities or min(capabilities) >= _BFLOAT16:
        return "mixed_bfloat16"
    if min(capabilities) >= _TENSOR_CORES or wanted == "on":
        return "mixed_float16"
    return "float32"

"""One network, one optimizer, and the two compiled functions that use them: a step, and a look.

A step takes batches of one size, so that it is traced once. What fills the last batch up weighs
nothing; it is made of real pictures, because BatchNormalization sees them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from contracts.training.trainings import Optimizer
from models.training.loop.checkpoint import Arrays
from models.training.loop.hardware import Hardware

Prepare = Callable[..., Any]
"""From what a source gives (pictures, or features) to what the network takes, in the graph."""

_OPTIMIZERS: dict[Optimizer, Callable[[float], keras.Optimizer]] = {
    "adam": keras.optimizers.Adam,
    "adamw": keras.optimizers.AdamW,
    "rmsprop": keras.optimizers.RMSprop,
    "sgd": lambda rate: keras.optimizers.SGD(rate, momentum=0.9, nesterov=True),
}


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step learns from.

    Attributes:
        inputs: Arrays of n rows each, for `Prepare`.
        truth: int32 (n,).
        mask: float32 (n,): 1, or 0 for what only fills the batch up.
        weights: float32 (n,): of the classes.
    """

    inputs: tuple[npt.NDArray[Any], ...]
    truth: npt.NDArray[np.int32]
    mask: npt.NDArray[np.float32]
    weights: npt.NDArray[np.float32]


class Learner:
    """Learns, and tells what it knows.

    Args:
        model: What learns: a network, or the part above the cut.
        optimizer: How.
        learning_rate: To begin with.
        l2: Factor of the penalty on kernels.
        prepare: For training, e.g. with variations.
        look: For looking, without.
        hardware: On what.
    """

    def __init__(
        self,
        model: keras.Model,
        *,
        optimizer: Optimizer,
        learning_rate: float,
        l2: float,
        prepare: Prepare,
        look: Prepare,
        hardware: Hardware,
    ) -> None:
        self.model = model
        self._prepare, self._look = prepare, look
        self._hardware = hardware
        self._l2 = l2
        with hardware.strategy.scope():
            self._optimizer = _OPTIMIZERS[optimizer](learning_rate)
            if hardware.policy == "mixed_float16":
                self._optimizer = keras.optimizers.LossScaleOptimizer(self._optimizer)
            self._optimizer.build(model.trainable_variables)
        self._step = tf.function(self._compiled_step, reduce_retracing=True)
        self._answer = tf.function(self._compiled_answer, reduce_retracing=True)

    def step(self, batch: Batch, learning_rate: float) -> tuple[float, float]:
        """Learn from one batch.

        Returns:
            Summed cross-entropy, unweighted, and how many were right, of the pictures that count,
            as they were before the step.
        """
        self._optimizer.learning_rate.assign(learning_rate)
        arrays = (*batch.inputs, batch.truth, batch.mask, batch.weights)
        loss, correct = self._step(*self._spread(arrays), tf.constant(batch.mask.sum()))
        return float(loss), float(correct)

    def answer(self, inputs: tuple[npt.NDArray[Any], ...]) -> npt.NDArray[np.float32]:
        """Probabilities (n, classes), nothing dropped and nothing varied."""
        answer: npt.NDArray[np.float32] = self._answer(*map(tf.constant, inputs)).numpy()
        return answer

    def learned(self) -> Arrays:
        """Copies of the variables that change, by the names of their layers."""
        return {name: variable.numpy() for name, variable in self._changing().items()}

    def restore(self, arrays: Arrays) -> None:
        """Set the variables that change."""
        for name, variable in self._changing().items():
            variable.assign(arrays[name])

    def optimizer_state(self) -> Arrays:
        """Copies of the optimizer's variables."""
        return {str(i): variable.numpy() for i, variable in enumerate(self._optimizer.variables)}

    def restore_optimizer(self, arrays: Arrays) -> None:
        for i, variable in enumerate(self._optimizer.variables):
            variable.assign(arrays[str(i)])

    def _changing(self) -> dict[str, Any]:
        """Weights, moving averages and the state of dropout's chance, of all that learns."""
        return {
            f"{layer.name}/{i}": variable
            for layer in self.model.layers
            if layer.trainable
            for i, variable in enumerate(layer.variables)
        }

    def _spread(self, arrays: tuple[npt.NDArray[Any], ...]) -> tuple[Any, ...]:
        """A batch's arrays, each replica's share on its device."""
        replicas = self._hardware.replicas
        if replicas == 1:
            return tuple(map(tf.constant, arrays))
        spread = self._hardware.strategy.experimental_distribute_values_from_function
        return tuple(
            spread(
                lambda context, array=array: tf.constant(
                    np.array_split(array, replicas)[context.replica_id_in_sync_group]
                )
            )
            for array in arrays
        )

    def _compiled_step(self, *arguments: Any) -> tuple[Any, Any]:
        *arrays, count = arguments
        if self._hardware.replicas == 1:
            return self._learn(*arrays, count)
        strategy = self._hardware.strategy
        loss, correct = strategy.run(self._learn, args=(*arrays, count))
        total = tf.distribute.ReduceOp.SUM
        return strategy.reduce(total, loss, None), strategy.reduce(total, correct, None)

    def _learn(self, *arguments: Any) -> tuple[Any, Any]:
        *inputs, truth, mask, weights, count = arguments
        variables = self.model.trainable_variables
        with tf.GradientTape() as tape:
            answers = self.model(self._prepare(*inputs), training=True)
            losses = self._losses(truth, answers)
            loss = tf.reduce_sum(losses * weights * mask) / count + self._penalty()
            scaled = self._optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, variables)
        self._optimizer.apply(gradients, variables)
        best = tf.argmax(_columns(answers), -1, truth.dtype)
        right = tf.cast(tf.equal(best, truth), tf.float32)
        return tf.reduce_sum(losses * mask), tf.reduce_sum(right * mask)

    def _losses(self, truth: Any, answers: Any) -> Any:
        """Cross-entropy of each picture, (n,).

        Keras finds the logits that the answers were made of, which alone have a gradient where
        the network is sure of itself.
        """
        if answers.shape[-1] == 1:
            return keras.losses.binary_crossentropy(truth[:, tf.newaxis], answers)
        return keras.losses.sparse_categorical_crossentropy(truth, answers)

    def _penalty(self) -> Any:
        """Of the architecture's own regularisers, and the L2 that was asked for."""
        kernels = [v for v in self.model.trainable_variables if v.path.endswith("kernel")]
        asked = [self._l2 * tf.reduce_sum(tf.square(v)) for v in kernels] if self._l2 else []
        own = [tf.cast(loss, tf.float32) for loss in self.model.losses]
        # Each replica adds its gradients to the others'.
        return tf.add_n([*asked, *own, tf.constant(0.0)]) / self._hardware.replicas

    def _compiled_answer(self, *inputs: Any) -> Any:
        return _columns(self.model(self._look(*inputs), training=False))


def _columns(answers: Any) -> Any:
    """A column a class, (n, classes): one sigmoid (n, 1) is the second of two."""
    return tf.concat([1 - answers, answers], axis=-1) if answers.shape[-1] == 1 else answers

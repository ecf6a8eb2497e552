"""A network, its optimizer, and the two compiled functions that use them: train step and predict.

All batches of a train step have one size, so that it is traced once. The last batch is padded with
real images of weight 0; they must be real because BatchNormalization sees them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from contracts.training.trainings import Optimizer
from models.training.data.sources import Inputs, Preprocess
from models.training.loop.checkpoint import Arrays
from models.training.loop.hardware import Hardware

_OPTIMIZERS: dict[Optimizer, Callable[[float], keras.Optimizer]] = {
    "adam": keras.optimizers.Adam,
    "adamw": keras.optimizers.AdamW,
    "rmsprop": keras.optimizers.RMSprop,
    "sgd": lambda rate: keras.optimizers.SGD(rate, momentum=0.9, nesterov=True),
}


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch of a train step.

    Attributes:
        inputs: Arrays of n rows each, for the learner's `Preprocess`.
        truth: int32 (n,), the class of each image.
        mask: float32 (n,): 1, or 0 for padding.
        weights: float32 (n,): the class weight of each image.
    """

    inputs: Inputs
    truth: npt.NDArray[np.int32]
    mask: npt.NDArray[np.float32]
    weights: npt.NDArray[np.float32]


class Learner:
    """Trains a network batch by batch and predicts with it.

    Args:
        model: The network, or the part of it above the cut.
        optimizer: Name of the optimizer.
        learning_rate: Initial learning rate.
        l2: Factor of the L2 penalty on kernels.
        preprocess: Turns a source's arrays into the input of the model.
        hardware: Devices and precision.
    """

    def __init__(
        self,
        model: keras.Model,
        *,
        optimizer: Optimizer,
        learning_rate: float,
        l2: float,
        preprocess: Preprocess,
        hardware: Hardware,
    ) -> None:
        self.model = model
        self._preprocess = preprocess
        self._hardware = hardware
        self._l2 = l2
        with hardware.strategy.scope():
            self._optimizer = _OPTIMIZERS[optimizer](learning_rate)
            if hardware.policy == "mixed_float16":
                self._optimizer = keras.optimizers.LossScaleOptimizer(self._optimizer)
            self._optimizer.build(model.trainable_variables)
        self._step = tf.function(self._distributed_step, reduce_retracing=True)
        self._predict = tf.function(self._compiled_predict, reduce_retracing=True)

    def step(self, batch: Batch, learning_rate: float) -> tuple[float, float]:
        """Train on one batch.

        Returns:
            Sum of the unweighted cross-entropy and number of correct predictions, both without
            padding and with the weights from before the step.
        """
        self._optimizer.learning_rate.assign(learning_rate)
        arrays = (*batch.inputs, batch.truth, batch.mask, batch.weights)
        loss, correct = self._step(*self._distribute(arrays), tf.constant(batch.mask.sum()))
        return float(loss), float(correct)

    def predict(self, inputs: Inputs) -> npt.NDArray[np.float32]:
        """Probabilities (n, classes), without dropout."""
        probabilities: npt.NDArray[np.float32] = self._predict(*map(tf.constant, inputs)).numpy()
        return probabilities

    def learned(self) -> Arrays:
        """Copies of the trained variables, by the names of their layers."""
        return {name: variable.numpy() for name, variable in self._trained_variables().items()}

    def restore(self, arrays: Arrays) -> None:
        """Set the trained variables."""
        for name, variable in self._trained_variables().items():
            variable.assign(arrays[name])

    def optimizer_state(self) -> Arrays:
        """Copies of the optimizer's variables."""
        return {str(i): variable.numpy() for i, variable in enumerate(self._optimizer.variables)}

    def restore_optimizer(self, arrays: Arrays) -> None:
        """Set the optimizer's variables."""
        for i, variable in enumerate(self._optimizer.variables):
            variable.assign(arrays[str(i)])

    def _trained_variables(self) -> dict[str, Any]:
        """Weights, moving averages and dropout's random state of all trained layers."""
        return {
            f"{layer.name}/{i}": variable
            for layer in self.model.layers
            if layer.trainable
            for i, variable in enumerate(layer.variables)
        }

    def _distribute(self, arrays: tuple[npt.NDArray[Any], ...]) -> tuple[Any, ...]:
        """Split a batch's arrays over the replicas."""
        replicas = self._hardware.replicas
        if replicas == 1:
            return tuple(map(tf.constant, arrays))
        distribute = self._hardware.strategy.experimental_distribute_values_from_function
        return tuple(
            distribute(
                lambda context, array=array: tf.constant(
                    np.array_split(array, replicas)[context.replica_id_in_sync_group]
                )
            )
            for array in arrays
        )

    def _distributed_step(self, *arguments: Any) -> tuple[Any, Any]:
        *arrays, count = arguments
        if self._hardware.replicas == 1:
            return self._replica_step(*arrays, count)
        strategy = self._hardware.strategy
        loss, correct = strategy.run(self._replica_step, args=(*arrays, count))
        total = tf.distribute.ReduceOp.SUM
        return strategy.reduce(total, loss, None), strategy.reduce(total, correct, None)

    def _replica_step(self, *arguments: Any) -> tuple[Any, Any]:
        *inputs, truth, mask, weights, count = arguments
        variables = self.model.trainable_variables
        with tf.GradientTape() as tape:
            outputs = self.model(self._preprocess(*inputs), training=True)
            losses = self._losses(truth, outputs)
            loss = tf.reduce_sum(losses * weights * mask) / count + self._penalty()
            scaled = self._optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, variables)
        self._optimizer.apply(gradients, variables)
        predicted = tf.argmax(_class_columns(outputs), -1, truth.dtype)
        correct = tf.cast(tf.equal(predicted, truth), tf.float32)
        return tf.reduce_sum(losses * mask), tf.reduce_sum(correct * mask)

    def _losses(self, truth: Any, outputs: Any) -> Any:
        """Cross-entropy of each image, (n,).

        Keras traces the probabilities back to their logits, because only those have a useful
        gradient where the network is very sure.
        """
        if outputs.shape[-1] == 1:
            return keras.losses.binary_crossentropy(truth[:, tf.newaxis], outputs)
        return keras.losses.sparse_categorical_crossentropy(truth, outputs)

    def _penalty(self) -> Any:
        """The architecture's own regularizers plus the requested L2 penalty."""
        kernels = [v for v in self.model.trainable_variables if v.path.endswith("kernel")]
        l2 = [self._l2 * tf.reduce_sum(tf.square(v)) for v in kernels] if self._l2 else []
        own = [tf.cast(loss, tf.float32) for loss in self.model.losses]
        # The gradients of the replicas are added up.
        return tf.add_n([*l2, *own, tf.constant(0.0)]) / self._hardware.replicas

    def _compiled_predict(self, *inputs: Any) -> Any:
        return _class_columns(self.model(self._preprocess(*inputs), training=False))


def _class_columns(outputs: Any) -> Any:
    """One column per class, (n, classes): a single sigmoid (n, 1) is the second of two classes."""
    return tf.concat([1 - outputs, outputs], axis=-1) if outputs.shape[-1] == 1 else outputs

"""A network, its optimizer, and the two compiled functions that use them: train step and predict.

All batches of a train step have one size, so that it is traced once. The last batch is padded with
real images of weight 0; they must be real because BatchNormalization sees them.
"""

from dataclasses import dataclass
from typing import Any, Self

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from contracts.training.trainings import Optimizer, Phase, TrainingRequest
from models.training.data.sources import Inputs, Preprocess
from models.training.loop.checkpoint import Arrays
from models.training.loop.hardware import Hardware

_SGD_MOMENTUM = 0.9


@dataclass(frozen=True, slots=True)
class Objective:
    """What a learner minimizes, and how.

    Attributes:
        optimizer: Name of the optimizer.
        learning_rate: Initial learning rate.
        momentum: Of sgd and rmsprop; None for their default.
        l2: Factor of the L2 penalty on kernels; None for the architecture's own penalties.
        independent: Whether each class has a sigmoid of its own.
    """

    optimizer: Optimizer
    learning_rate: float
    momentum: float | None = None
    l2: float | None = None
    independent: bool = False

    @classmethod
    def of(cls, request: TrainingRequest, phase: Phase) -> Self:
        """What a phase of a training minimizes."""
        return cls(
            request.optimizer,
            getattr(request.learning_rate, phase),
            request.momentum,
            request.l2,
            request.has_independent_outputs,
        )

    def build_optimizer(self) -> keras.Optimizer:
        """The optimizer before its first step."""
        rate, momentum = self.learning_rate, self.momentum
        if self.optimizer == "sgd":
            momentum = _SGD_MOMENTUM if momentum is None else momentum
            return keras.optimizers.SGD(rate, momentum=momentum, nesterov=momentum > 0)
        if self.optimizer == "rmsprop":
            return keras.optimizers.RMSprop(rate, momentum=momentum or 0.0)
        return {"adam": keras.optimizers.Adam, "adamw": keras.optimizers.AdamW}[self.optimizer](
            rate
        )


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
        objective: What it minimizes, and how.
        preprocess: Turns a source's arrays into the input of the model.
        hardware: Devices and precision.
    """

    def __init__(
        self,
        model: keras.Model,
        *,
        objective: Objective,
        preprocess: Preprocess,
        hardware: Hardware,
    ) -> None:
        self.model = model
        self._preprocess = preprocess
        self._hardware = hardware
        self._objective = objective
        with hardware.strategy.scope():
            self._optimizer = objective.build_optimizer()
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
        if self._objective.independent:
            one_hot = tf.one_hot(truth, outputs.shape[-1])
            return keras.losses.binary_crossentropy(one_hot, outputs)
        if outputs.shape[-1] == 1:
            return keras.losses.binary_crossentropy(truth[:, tf.newaxis], outputs)
        return keras.losses.sparse_categorical_crossentropy(truth, outputs)

    def _penalty(self) -> Any:
        """The requested L2 penalty or, by default, the architecture's own regularizers."""
        l2 = self._objective.l2
        if l2 is None:
            penalties = [tf.cast(loss, tf.float32) for loss in self.model.losses]
        else:
            kernels = [v for v in self.model.trainable_variables if v.path.endswith("kernel")]
            penalties = [l2 * tf.reduce_sum(tf.square(v)) for v in kernels] if l2 else []
        # The gradients of the replicas are added up.
        return tf.add_n([*penalties, tf.constant(0.0)]) / self._hardware.replicas

    def _compiled_predict(self, *inputs: Any) -> Any:
        return _class_columns(self.model(self._preprocess(*inputs), training=False))


def _class_columns(outputs: Any) -> Any:
    """One column per class, (n, classes): a single sigmoid (n, 1) is the second of two classes."""
    return tf.concat([1 - outputs, outputs], axis=-1) if outputs.shape[-1] == 1 else outputs

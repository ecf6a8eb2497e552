"""Class activation maps: a coarse grid of evidence from one forward and one backward pass.

Every method weighs the maps A (height, width, channels) of a layer by the gradient G of the class's
logit with respect to them; they differ in one function. The logit is used because the gradient of a
saturated softmax is zero.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from contracts.inference.explanation import Method
from models.explain.head import Head
from models.explain.layer_graph import LayerGraph, Tensor

Weigh = Callable[[Tensor, Tensor], Tensor]
"""From maps and their gradients, both (n, gh, gw, channels), to evidence (n, gh, gw)."""


def grad_cam(maps: Tensor, gradients: Tensor) -> Tensor:
    """Weighs each map by the mean of its gradient over the image.

    Grad-CAM (Selvaraju et al., 2017, arXiv:1610.02391, eq. 1 and 2): sum_k mean_xy(G_k) A_k.
    """
    weights = tf.reduce_mean(gradients, axis=(1, 2), keepdims=True)
    return tf.reduce_sum(weights * maps, axis=-1)


def hires_cam(maps: Tensor, gradients: Tensor) -> Tensor:
    """Weighs each value by its own gradient.

    HiResCAM (Draelos and Carin, 2020, arXiv:2011.08891, eq. 5), as a mean: mean_k(G_k A_k).
    """
    return tf.reduce_mean(maps * gradients, axis=-1)


def grad_cam_plus_plus(maps: Tensor, gradients: Tensor) -> Tensor:
    """Weighs each map by its positive gradients, more where few positions carry it.

    Grad-CAM++ (Chattopadhay et al., 2018, arXiv:1710.11063, eq. 10, 11 and 19), of the exponential
    of the logit, whose higher derivatives are powers of G: sum_k A_k sum_xy(a_k ReLU(G_k)) with
    a = G^2 / (2 G^2 + sum_xy(A) G^3). G^2 is cancelled here so that a
    tiny gradient does not give 0 / 0. The paper's maps are rectified; where a layer's are not, a
    negative sum counts as zero.
    """
    rising = tf.nn.relu(gradients)
    sums = tf.nn.relu(tf.reduce_sum(maps, axis=(1, 2), keepdims=True))
    weights = tf.reduce_sum(rising / (2.0 + sums * rising), axis=(1, 2), keepdims=True)
    return tf.reduce_sum(weights * maps, axis=-1)


def layer_cam(maps: Tensor, gradients: Tensor) -> Tensor:
    """Weighs each value by its own gradient where that is positive.

    LayerCAM (Jiang et al., 2021, IEEE Transactions on Image Processing 30, pages 5875-5888,
    eq. 5 and 6): sum_k ReLU(G_k) A_k.
    """
    return tf.reduce_sum(tf.nn.relu(gradients) * maps, axis=-1)


WEIGHINGS: dict[Method, Weigh] = {
    "grad_cam": grad_cam,
    "hires_cam": hires_cam,
    "grad_cam_plus_plus": grad_cam_plus_plus,
    "layer_cam": layer_cam,
}


class CamResult(NamedTuple):
    """Heatmaps and the classes they explain.

    Attributes:
        grids: float32 (n, gh, gw) in 0..1, the strongest evidence being 1; all zeros without
            positive evidence.
        targets: The explained class of each, int32 (n,).
        probabilities: Predicted probability of that class, float32 (n,).
    """

    grids: Tensor
    targets: Tensor
    probabilities: Tensor


class CamEvidence(NamedTuple):
    """Maps and gradients of a layer, from which every method here starts.

    Attributes:
        maps: The layer's output A, float32 (n, gh, gw, channels).
        gradients: G, the gradient of the class's logit, of the same shape.
        targets: The class of each image, int32 (n,).
        probabilities: Predicted probability of that class, float32 (n,).
    """

    maps: Tensor
    gradients: Tensor
    targets: Tensor
    probabilities: Tensor


def cam_function(
    graph: LayerGraph, head: Head, layer: str, weigh: Weigh
) -> Callable[[Tensor, Tensor], CamResult]:
    """The function of one method that a version exports: evidence, weighed and scaled."""
    gather = evidence_function(graph, head, layer)

    def explain(inputs: Tensor, classes: Tensor) -> CamResult:
        evidence = gather(inputs, classes)
        grids = scaled(weigh(evidence.maps, evidence.gradients))
        return CamResult(grids, evidence.targets, evidence.probabilities)

    return explain


def evidence_function(
    graph: LayerGraph, head: Head, layer: str
) -> Callable[[Tensor, Tensor], CamEvidence]:
    """A traceable function from preprocessed images and classes to evidence.

    Returns:
        A function of float32 (n, h, w, channels) and int32 (n,). A negative class stands for the
        most probable one; a class that does not exist has gradients of zero.
    """
    taps = graph.model_to(graph.nodes[layer].output, head.before, graph.output)

    def gather(inputs: Tensor, classes: Tensor) -> CamEvidence:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            # Watching the input records a frozen network as well.
            tape.watch(inputs)
            maps, before, output = taps(inputs, training=False)
            logits = head.logits(before)
            top = tf.argmax(head.class_logits(logits), axis=-1, output_type=tf.int32)
            targets = tf.where(classes < 0, top, classes)
            score = tf.reduce_sum(head.of_class(logits, targets))
        gradients: Any = tape.gradient(
            score, maps, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        chosen = tf.one_hot(targets, head.classes)
        probabilities = tf.reduce_sum(head.probabilities(output) * chosen, axis=-1)
        return CamEvidence(
            tf.cast(maps, tf.float32), tf.cast(gradients, tf.float32), targets, probabilities
        )

    return gather


def scaled(weighed: Tensor) -> Tensor:
    """Positive evidence (n, gh, gw) over its maximum; zeros where there is none."""
    positive = tf.nn.relu(tf.where(tf.math.is_finite(weighed), weighed, 0.0))
    return tf.math.divide_no_nan(positive, tf.reduce_max(positive, axis=(1, 2), keepdims=True))

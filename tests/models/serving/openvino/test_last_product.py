"""The last product of a network and what follows run in float32, whatever the rest runs in."""

from typing import Any

import numpy as np
import pytest

from models.serving.openvino.frontend import import_openvino
from models.serving.openvino.graph import OpenVinoGraph
from models.serving.openvino.last_product import split_before_last_product

openvino = import_openvino()
ops = openvino.opset13
SIDE, FEATURES, CLASSES = 4, 48, 10
RANDOM = np.random.default_rng(8)
KERNEL = RANDOM.normal(size=(FEATURES, 3, 3, 3)).astype(np.float32)
MATRIX = RANDOM.normal(size=(FEATURES, CLASSES)).astype(np.float32)
BIAS = RANDOM.normal(size=(1, CLASSES)).astype(np.float32)
IMAGES = RANDOM.integers(0, 256, (5, SIDE, SIDE, 3), np.uint8)


def convolved(images: Any) -> Any:
    scaled = ops.multiply(ops.convert(images, "f32"), np.float32(1 / 255))
    maps = ops.transpose(scaled, np.array([0, 3, 1, 2]))
    return ops.convolution(maps, KERNEL, [1, 1], [1, 1], [1, 1], [1, 1])


def classifier(ending: str = "softmax") -> Any:
    """From images to probabilities, as TensorFlow's frontend would read a network."""
    images = ops.parameter([-1, SIDE, SIDE, 3], np.uint8)
    features = ops.reduce_mean(ops.relu(convolved(images)), np.array([2, 3]), keep_dims=False)
    logits = ops.add(ops.matmul(features, MATRIX, False, False), BIAS)
    if ending == "sigmoid":
        one = ops.sigmoid(ops.slice(logits, [0], [1], [1], [1]))
        output = ops.concat([ops.subtract(np.float32(1), one), one], 1)
    elif ending == "length":
        length = ops.sqrt(ops.reduce_sum(ops.multiply(logits, logits), np.array([1]), True))
        output = ops.divide(logits, length)
    else:
        output = ops.softmax(logits, 1)
    return openvino.Model([output], [images])


def pooled_at_the_end() -> Any:
    """As SqueezeNet: a convolution, then an average."""
    images = ops.parameter([-1, SIDE, SIDE, 3], np.uint8)
    logits = ops.reduce_mean(convolved(images), np.array([2, 3]), keep_dims=False)
    return openvino.Model([ops.softmax(logits, 1)], [images])


def run(model: Any, rows: Any) -> Any:
    float32 = {"INFERENCE_PRECISION_HINT": "f32"}
    request = openvino.Core().compile_model(model, "CPU", float32).create_infer_request()
    return np.array(next(iter(request.infer([rows]).values())))


@pytest.mark.parametrize("ending", ["softmax", "sigmoid", "length"])
def test_both_parts_together_are_the_whole(ending: str) -> None:
    whole = run(classifier(ending), IMAGES)
    parts = split_before_last_product(openvino, classifier(ending))
    assert parts is not None
    trunk, tail = parts
    features = run(trunk, IMAGES)
    assert features.shape == (len(IMAGES), FEATURES)
    np.testing.assert_allclose(run(tail, features), whole, atol=1e-6)


def test_network_that_ends_in_an_average_is_not_split() -> None:
    assert split_before_last_product(openvino, pooled_at_the_end()) is None


def test_product_of_two_images_is_not_split() -> None:
    """Both factors depend on the input, so neither is a matrix of weights."""
    images = ops.parameter([-1, SIDE, SIDE, 3], np.uint8)
    rows = ops.reshape(ops.convert(images, "f32"), np.array([-1, SIDE]), False)
    model = openvino.Model([ops.softmax(ops.matmul(rows, rows, False, True), 1)], [images])
    assert split_before_last_product(openvino, model) is None


class BFloat16Core:
    """A core of a processor with bfloat16, as far as the properties it is asked for show."""

    def __init__(self) -> None:
        self.hints: list[str] = []
        self.rows: list[str] = []
        self._core = openvino.Core()

    def get_property(self, device: str, name: str) -> Any:
        return ["FP32", "BF16"]

    def compile_model(self, model: Any, device: str, properties: dict[str, Any]) -> Any:
        self.hints.append(properties["INFERENCE_PRECISION_HINT"])
        self.rows.append(str(model.inputs[0].partial_shape[0]))
        return self._core.compile_model(
            model, device, properties | {"INFERENCE_PRECISION_HINT": "f32"}
        )


def graph(core: Any, precision: Any) -> OpenVinoGraph:
    return OpenVinoGraph(openvino, core, classifier, precision=precision, threads=2, large=False)


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_last_product_is_compiled_in_float32(precision: str) -> None:
    core = BFloat16Core()
    served = graph(core, precision)
    assert core.hints == ["f32", "bf16"]
    served.parallelize()
    # All graphs share the last product.
    assert core.hints == ["f32", *["bf16"] * 4]
    assert core.rows == ["?", "?", "1", "2", "1"], "for pieces of each size, and for lone images"
    (expected,) = graph(BFloat16Core(), "float32").run(IMAGES)
    for count in (1, 2, 5):
        (actual,) = served.run(IMAGES[:count])
        np.testing.assert_allclose(actual, expected[:count], atol=1e-6)


def test_whole_graph_is_compiled_at_once_in_float32() -> None:
    core = BFloat16Core()
    graph(core, "float32")
    assert core.hints == ["f32"]


def test_no_two_classes_tie_exactly() -> None:
    """Features in bfloat16 and logits in float32, against logits rounded to bfloat16."""
    many = RANDOM.integers(0, 256, (500, SIDE, SIDE, 3), np.uint8)
    parts = split_before_last_product(openvino, classifier())
    assert parts is not None
    features = _rounded(run(parts[0], many))
    probabilities = run(parts[1], features)
    assert not _ties(probabilities)
    assert _ties(_rounded(features @ MATRIX + BIAS))  # so the test would notice them


def _ties(rows: Any) -> int:
    return sum(len(np.unique(row)) < CLASSES for row in rows)


def _rounded(values: Any) -> Any:
    """To bfloat16's eight bits of mantissa, to the nearest even number."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    bits = bits + 0x7FFF + ((bits >> 16) & 1)
    return (bits & np.uint32(0xFFFF0000)).view(np.float32)

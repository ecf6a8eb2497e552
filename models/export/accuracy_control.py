"""A more exact int8 graph, where the plain one loses too much: some layers stay in float32.

Both ways to place ranges are compared, symmetric and asymmetric ones. Then NNCF's accuracy control
finds the layers that harm the answers most and leaves them in float32, one after the other, until
enough answers are those of float32. The images need no labels, and the test images remain unseen:
at most as many answers can become wrong as differ.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from contracts.queue.messages import Pixels
from models.export.range_extraction import OriginalGraph
from models.serving.batching import Outputs
from models.serving.openvino.frontend import import_nncf, import_openvino
from models.serving.openvino.ranges import Ranges

MIXED, SYMMETRIC = "mixed", "performance"
"""Asymmetric ranges for activations, or symmetric ones, as NNCF names them."""

_RANKING_IMAGES = 50


@dataclass(frozen=True, slots=True)
class ControlImages:
    """Images of the network's input size, uint8 (1, height, width, 3) each.

    Attributes:
        calibration: Those that ranges are measured on.
        control: Others, on which the answers are compared.
        expected: The probabilities in float32 of the latter.
        check: Called before each image is computed; may raise.
    """

    calibration: Sequence[Pixels]
    control: Sequence[Pixels]
    expected: Outputs
    check: Callable[[], None]


@dataclass(frozen=True, slots=True)
class ControlledGraph:
    """The result.

    Attributes:
        graph: An `openvino.Model` that computes in int8.
        ranges: Its ranges, for other graphs with the same layers.
    """

    graph: Any
    ranges: Ranges


def quantize_controlled(
    read: Callable[[], Any], images: ControlImages, *, max_differing: float, seconds: float
) -> ControlledGraph:
    """Quantize a classifier so that its best classes are those of float32.

    Args:
        read: Reads the float32 graph; called for each trial.
        images: To calibrate and to control with.
        max_differing: The share of images whose best class may differ.
        seconds: After this time, what was found so far is returned, however exact it is.
    """
    deadline = time.monotonic() + seconds
    trials = {preset: _quantize(read(), preset, images) for preset in (MIXED, SYMMETRIC)}
    agreements = {name: _agreement(trial.graph, images) for name, trial in trials.items()}
    best = max(agreements, key=lambda name: agreements[name])
    if agreements[best] >= 1 - max_differing or time.monotonic() > deadline:
        return trials[best]
    return _control(read(), best, images, max_differing, deadline)


def _quantize(graph: Any, preset: str, images: ControlImages) -> ControlledGraph:
    nncf, original = import_nncf(), OriginalGraph(graph)
    quantized = nncf.quantize(
        graph,
        nncf.Dataset(images.calibration, lambda image: _checked(image, images)),
        preset=nncf.QuantizationPreset(preset),
        subset_size=len(images.calibration),
        advanced_parameters=quantization_parameters(nncf),
    )
    return ControlledGraph(quantized, original.ranges(quantized))


def quantization_parameters(nncf: Any) -> Any:
    """For `nncf.quantize`, such that the ranges can be extracted from the result.

    Weights have seven bits: with eight, sums overflow on processors without VNNI or AMX.
    """
    advanced = nncf.quantization.advanced_parameters
    return nncf.AdvancedQuantizationParameters(
        activations_range_estimator_params=whole_ranges(nncf),
        overflow_fix=nncf.OverflowFix.ENABLE,
        activations_quantization_params=advanced.QuantizationParameters(per_channel=False),
        backend_params={"compress_weights": False},
    )


def whole_ranges(nncf: Any) -> Any:
    """Makes the range of a tensor contain all its values on all images.

    By default, NNCF takes the mean of the images' largest values, and what that cuts off costs far
    more than its finer steps gain.
    """
    estimator = nncf.quantization.range_estimator
    least, most = (
        estimator.StatisticsCollectorParameters(
            statistics_type=estimator.StatisticsType[name],
            aggregator_type=estimator.AggregatorType[name],
        )
        for name in ("MIN", "MAX")
    )
    return estimator.RangeEstimatorParameters(least, most)


def _control(
    graph: Any, preset: str, images: ControlImages, max_differing: float, deadline: float
) -> ControlledGraph:
    nncf, original = import_nncf(), OriginalGraph(graph)

    def validate(compiled: Any, pairs: Iterable[Any]) -> tuple[float, list[float]]:
        """The share of images with the best class of float32, and how much of each is the same."""
        agree: list[bool] = []
        overlaps: list[float] = []
        for image, expected in pairs:
            if time.monotonic() > deadline:  # nothing is worth improving any more
                agree.append(True)
                overlaps.append(1.0)
                continue
            actual = compiled(_checked(image, images))[0][0]
            agree.append(bool(actual.argmax() == expected.argmax()))
            overlaps.append(1 - float(np.abs(actual - expected).sum()) / 2)
        late = time.monotonic() > deadline
        return 1.0 if late else float(np.mean(agree)), overlaps

    pairs = list(zip(images.control, images.expected, strict=True))
    quantized = nncf.quantize_with_accuracy_control(
        graph,
        nncf.Dataset(images.calibration, lambda image: _checked(image, images)),
        nncf.Dataset(pairs, lambda pair: pair[0]),
        validate,
        max_drop=max_differing,
        preset=nncf.QuantizationPreset(preset),
        subset_size=len(images.calibration),
        advanced_quantization_parameters=quantization_parameters(nncf),
        advanced_accuracy_restorer_parameters=nncf.AdvancedAccuracyRestorerParameters(
            ranking_subset_size=min(_RANKING_IMAGES, len(pairs)), num_ranking_workers=1
        ),
    )
    return ControlledGraph(quantized, original.ranges(quantized))


def _agreement(graph: Any, images: ControlImages) -> float:
    """The share of images whose best class is that of float32."""
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = import_openvino().Core().compile_model(graph, "CPU", settings)
    best = [compiled(_checked(image, images))[0][0].argmax() for image in images.control]
    return float(np.mean(np.array(best) == images.expected.argmax(axis=1)))


def _checked(image: Pixels, images: ControlImages) -> Pixels:
    images.check()
    return image

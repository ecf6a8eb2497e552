"""Selects the runtime of a version: the fastest requested one that passes the parity gate.

setting               tried in turn
auto, on a GPU        tensorflow-float32
auto, on a CPU        openvino-int8 if quantized, -bfloat16, -float32, tensorflow-float32
openvino              the same
tensorflow            tensorflow-float32
"""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contracts.inference.manifest import Draft
from models.serving.openvino.runtime import INT8_FOLDER, OpenVinoRuntime
from models.serving.parity_gate import find_deviation
from models.serving.reference import reference_of
from models.serving.runtime import (
    Precision,
    Runtime,
    RuntimeOptions,
    RuntimeUnavailableError,
)


@dataclass(frozen=True, slots=True)
class SelectedRuntime:
    """The runtime of a version.

    Attributes:
        runtime: Loaded and checked.
        reason: Why it is not the requested one; None if it is.
    """

    runtime: Runtime
    reason: str | None


def choose_runtime(folder: Path, manifest: Draft, options: RuntimeOptions) -> SelectedRuntime:
    """Load a version with the first runtime that is available and passes the gate.

    Args:
        folder: The version's.
        manifest: The version's, or its draft. A precision that differed too much on the version's
            own images when it was made is not used.
        options: The requested runtime.
    """
    reasons: list[str] = []
    rejected = rejected_precisions(manifest)
    if options.engine == "openvino":
        for precision in _precisions(folder, options):
            if precision in rejected:
                reasons.append(f"openvino-{precision}: {rejected[precision]}")
                continue
            try:
                return SelectedRuntime(
                    _checked(folder, manifest, precision, options), _joined(reasons)
                )
            except RuntimeUnavailableError as unavailable:
                # With `auto`, a processor without bfloat16 is expected and not worth reporting.
                if options.precision != "auto" or "processor" not in str(unavailable):
                    reasons.append(f"openvino-{precision}: {unavailable}")
    elif options.precision not in ("auto", "float32"):
        reasons.append(f"tensorflow serves in float32, not in {options.precision}")
    return SelectedRuntime(tensorflow_runtime(folder, options), _joined(reasons))


def tensorflow_runtime(folder: Path, options: RuntimeOptions) -> Any:
    """The reference runtime. Imports TensorFlow, which most workers on a CPU do not need."""
    module = importlib.import_module("models.serving.tensorflow")
    return module.TensorFlowRuntime(folder, options)


def rejected_precisions(manifest: Draft) -> dict[str, str]:
    """The precisions in which a version is not served, with the reasons."""
    return manifest.served.rejected if manifest.served is not None else {}


def precisions(options: RuntimeOptions) -> list[Precision]:
    """The precisions to try for a float32 graph, fastest first."""
    return ["float32"] if options.precision == "float32" else ["bfloat16", "float32"]


def _precisions(folder: Path, options: RuntimeOptions) -> list[Precision]:
    """The precisions to try, fastest first."""
    quantized = options.precision == "auto" and (folder / INT8_FOLDER).is_dir()
    int8: list[Precision] = ["int8"] if quantized or options.precision == "int8" else []
    return int8 + precisions(options)


def _checked(
    folder: Path, manifest: Draft, precision: Precision, options: RuntimeOptions
) -> Runtime:
    runtime = OpenVinoRuntime(folder, manifest, precision, options)
    samples = options.home and options.home / "samples"
    reference = reference_of(folder, samples)
    if reference is None:
        raise RuntimeUnavailableError("there are no outputs of TensorFlow to compare with")
    deviation = find_deviation(runtime, reference, precision)
    if deviation is not None:
        raise RuntimeUnavailableError(deviation)
    return runtime


def _joined(reasons: list[str]) -> str | None:
    return "; ".join(reasons) or None

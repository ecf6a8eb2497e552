"""Which runtime serves a version: the quickest that was asked for and answers as it should.

asked                 tried in turn
auto, on a GPU        tensorflow-float32
auto, on a CPU        openvino-int8 if quantized, -bfloat16, -float32, tensorflow-float32
openvino              the same
tensorflow            tensorflow-float32
"""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contracts.inference.manifest import Manifest
from models.serving.openvino.runtime import INT8_FOLDER, OpenVinoRuntime
from models.serving.parity_gate import complaint
from models.serving.reference import reference_of
from models.serving.runtime import (
    Precision,
    Runtime,
    RuntimeOptions,
    RuntimeUnavailableError,
)


@dataclass(frozen=True, slots=True)
class Choice:
    """What serves a version.

    Attributes:
        runtime: Loaded and judged.
        reason: Why it is not what was asked for; None if it is.
    """

    runtime: Runtime
    reason: str | None


def choose_runtime(folder: Path, manifest: Manifest, options: RuntimeOptions) -> Choice:
    """Load a version with the first runtime that can be had and passes the gate.

    Args:
        folder: The version's.
        manifest: Its own.
        options: What was asked for.
    """
    reasons: list[str] = []
    if options.engine == "openvino":
        for precision in _precisions(folder, options):
            try:
                return Choice(_judged(folder, manifest, precision, options), _told(reasons))
            except RuntimeUnavailableError as unavailable:
                # Silicon without bfloat16 is what `auto` is about, not a thing to report.
                if options.precision != "auto" or "processor" not in str(unavailable):
                    reasons.append(f"openvino-{precision}: {unavailable}")
    elif options.precision not in ("auto", "float32"):
        reasons.append(f"tensorflow serves in float32, not in {options.precision}")
    return Choice(tensorflow_runtime(folder, options), _told(reasons))


def tensorflow_runtime(folder: Path, options: RuntimeOptions) -> Any:
    """The reference runtime; this is where a process that needs it imports TensorFlow."""
    module = importlib.import_module("models.serving.tensorflow")
    return module.TensorFlowRuntime(folder, options)


def precisions(options: RuntimeOptions) -> list[Precision]:
    """What a float32 graph is tried in, quickest first."""
    return ["float32"] if options.precision == "float32" else ["bfloat16", "float32"]


def _precisions(folder: Path, options: RuntimeOptions) -> list[Precision]:
    """What to try, quickest first."""
    quantized = options.precision == "auto" and (folder / INT8_FOLDER).is_dir()
    quickest: list[Precision] = ["int8"] if quantized or options.precision == "int8" else []
    return quickest + precisions(options)


def _judged(
    folder: Path, manifest: Manifest, precision: Precision, options: RuntimeOptions
) -> Runtime:
    runtime = OpenVinoRuntime(folder, manifest, precision, options)
    samples = options.home and options.home / "samples"
    reference = reference_of(folder, samples)
    if reference is None:
        raise RuntimeUnavailableError("TensorFlow could not be asked for its answers to compare")
    strays = complaint(runtime, reference, precision)
    if strays is not None:
        raise RuntimeUnavailableError(strays)
    return runtime


def _told(reasons: list[str]) -> str | None:
    return "; ".join(reasons) or None

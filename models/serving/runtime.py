"""What every runtime can do, and what is asked of the choice between them."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, Self

from contracts.inference.manifest import Endpoint
from contracts.queue.messages import Pixels
from contracts.settings import Settings
from models.serving.batching import Outputs

RuntimeName = Literal["tensorflow", "openvino"]
Precision = Literal["float32", "bfloat16", "int8"]


class RuntimeUnavailableError(Exception):
    """This runtime cannot run this version here. The message says why, for people to read."""


class Runtime(Protocol):
    """A version's graph, loaded.

    Attributes:
        name: Engine and precision, e.g. ``openvino-bfloat16``.
        pads: Whether a batch should be padded to a size that was run before.
    """

    name: str
    pads: bool

    def run(self, endpoint: Endpoint, images: Pixels) -> Outputs:
        """Answers of `serve` or `features`.

        Args:
            endpoint: One of those it was loaded with.
            images: uint8 (n, height, width, 3) of the version's input size, n at least 1.

        Returns:
            float32 (n, classes) or (n, features), the caller's own.
        """
        ...

    def tune(self, endpoint: Endpoint, sizes: Sequence[int]) -> None:
        """Choose by measurement what depends on the machine, before the first request."""
        ...


@dataclass(frozen=True, slots=True)
class RuntimeOptions:
    """What was asked for. The default is the reference: TensorFlow in float32.

    Attributes:
        runtime: ``auto``: OpenVINO on a CPU, TensorFlow where there is a GPU.
        precision: ``auto``: bfloat16 where the processor has it, else float32; an int8 version
            in int8.
        threads: To compute with.
        home: The data home, where sample photos lie; None if there is none.
        xla: Whether TensorFlow compiles its graphs by XLA.
    """

    runtime: Literal["auto", "tensorflow", "openvino"] = "tensorflow"
    precision: Literal["auto", "float32", "bfloat16", "int8"] = "float32"
    threads: int = os.cpu_count() or 1
    home: Path | None = None
    xla: bool = False

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Those of the settings."""
        return cls(
            settings.runtime,
            settings.precision,
            settings.worker_threads,
            settings.home,
            settings.xla,
        )

    @property
    def engine(self) -> RuntimeName:
        """The runtime that is tried first."""
        if self.runtime != "auto":
            return self.runtime
        return "tensorflow" if has_gpu() else "openvino"


def has_gpu() -> bool:
    """Whether an NVIDIA driver offers this process a GPU; asked without loading TensorFlow."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1")
    return not hidden and Path("/proc/driver/nvidia/version").exists()

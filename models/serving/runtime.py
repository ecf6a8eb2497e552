"""The interface of runtimes, and the options that select one."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, Self

import numpy as np
import numpy.typing as npt

from contracts.inference.manifest import Endpoint
from contracts.queue.messages import Pixels
from contracts.settings import Settings
from models.serving.batching import Outputs

if TYPE_CHECKING:
    from models.serving.openvino.shared_base import SharedBase

RuntimeName = Literal["tensorflow", "openvino"]
Precision = Literal["float32", "bfloat16", "int8"]
MOST_BATCHES = 8
"""At once in a process: beyond that, their Python code would wait for one another."""


class RuntimeUnavailableError(Exception):
    """This runtime cannot run this version on this machine. The message says why."""


class Runtime(Protocol):
    """A version's loaded graph.

    Attributes:
        name: Engine and precision, e.g. ``openvino-bfloat16``.
        pads: Whether to pad a batch to a size that has run before.
        base: The base that it may share with other versions of this process; None if it has none
            or runs undivided.
        prepares: Whether the next batch should be taken, and the last one answered, while one is
            computed: the processors have time for it.
    """

    name: str
    pads: bool
    base: "SharedBase | None"
    prepares: bool

    @property
    def parallel_batches(self) -> int:
        """How many batches should be computed at once, at least one; together as large as one."""
        ...

    def run(self, endpoint: Endpoint, images: Pixels) -> Outputs:
        """The output of `serve` or `features`.

        Args:
            endpoint: One of those it was loaded with.
            images: uint8 (n, height, width, 3) of the version's input size, n at least 1.

        Returns:
            float32 (n, classes) or (n, features), owned by the caller.
        """
        ...

    def answers(self, endpoints: Sequence[Endpoint], images: Pixels) -> dict[Endpoint, Outputs]:
        """The outputs of several endpoints for the same images; the base runs once for them."""
        ...

    def finish(self, endpoint: Endpoint, base_output: npt.NDArray[np.float32]) -> Outputs:
        """The output of an endpoint from that of `base`, which is not None."""
        ...

    def parallelize(self) -> None:
        """Prepare for several batches at once, before the first request."""
        ...


@dataclass(frozen=True, slots=True)
class RuntimeOptions:
    """The requested runtime. The default is the reference: TensorFlow in float32.

    Attributes:
        runtime: ``auto``: TensorFlow if there is a GPU, otherwise OpenVINO.
        precision: ``auto``: int8 for a quantized version, otherwise bfloat16 if the processor
            supports it, otherwise float32.
        threads: The number of threads to compute with.
        home: `OPSIN_HOME`, which holds the sample photos; None if there is none.
        xla: Whether TensorFlow compiles its graphs with XLA.
    """

    runtime: Literal["auto", "tensorflow", "openvino"] = "tensorflow"
    precision: Literal["auto", "float32", "bfloat16", "int8"] = "float32"
    threads: int = os.cpu_count() or 1
    home: Path | None = None
    xla: bool = False

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The options in the settings."""
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
    """Whether this process can use an NVIDIA GPU, found out without loading TensorFlow."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1")
    return not hidden and Path("/proc/driver/nvidia/version").exists()

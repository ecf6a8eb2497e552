"""Runs a version by OpenVINO on the processor: the same SavedModel, 2 to 4 times as fast.

In float32 and bfloat16, a version is a base, which it may share with others, and a head for each
endpoint (`models.serving.openvino.sharing`). What cannot be divided like that is a graph for each
endpoint.
"""

from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from contracts.inference.manifest import Draft, Endpoint
from contracts.queue.messages import Pixels
from models.export.endpoints import OUTPUTS, PROBABILITY, TARGET
from models.serving.batching import Outputs
from models.serving.openvino.frontend import converters, converting_core, import_openvino
from models.serving.openvino.gradients import gradient_converters
from models.serving.openvino.graph import OpenVinoGraph, is_large
from models.serving.openvino.ranges import published_ranges, quantize
from models.serving.openvino.shared_base import BaseOutput, SharedBase
from models.serving.openvino.sharing import Library, share, share_graph
from models.serving.runtime import Precision, RuntimeOptions, RuntimeUnavailableError
from models.serving.signature_view import signature_view

INT8_FOLDER = "openvino_int8"
# How its frontend reports an operation without a converter, or one that a converter refused.
_UNSUPPORTED = ("No conversion rule", "Conversion is failed for")
SERVED: tuple[Endpoint, ...] = ("serve", "features")


class _OpenVino:
    """What both uses of a version share: the library, and whether it supports the precision."""

    def __init__(self, folder: Path, precision: Precision, options: RuntimeOptions) -> None:
        try:
            self.module = import_openvino()
        except ImportError:
            raise RuntimeUnavailableError("OpenVINO is not installed") from None
        self.core = _core()
        self.folder = folder
        self._precision = precision
        self._threads = options.threads
        capable = self.core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if precision == "bfloat16" and "BF16" not in capable:
            raise RuntimeUnavailableError("this processor does not compute in bfloat16")

    @property
    def library(self) -> Library:
        return Library(self.module, self.core, self._precision, self._threads)

    def graph(self, read: Any) -> OpenVinoGraph:
        return self.library.graph(read, large=is_large(self.folder))


@cache
def _core() -> Any:
    """The process's `Core`: making one for each version would take 20 ms each time."""
    return converting_core(import_openvino())


class OpenVinoRuntime:
    """A SavedModel, or the version's int8 graph, compiled by OpenVINO for this processor.

    Args:
        folder: The version's.
        manifest: Lists its endpoints.
        precision: To compute in. int8 needs a quantized version, or published weights whose ranges
            are known (`models.serving.openvino.ranges`).
        options: For the number of threads.

    Raises:
        RuntimeUnavailableError: OpenVINO is not installed, cannot read the graph, or the
            processor or the version lacks the precision.
    """

    pads = False
    prepares = False
    base: SharedBase | None = None

    def __init__(
        self, folder: Path, manifest: Draft, precision: Precision, options: RuntimeOptions
    ) -> None:
        self.name = f"openvino-{precision}"
        self._openvino = _OpenVino(folder, precision, options)
        self._folder = folder
        self._is_int8 = precision == "int8"
        self._is_quantized = (folder / INT8_FOLDER).is_dir()
        served = tuple(endpoint for endpoint in SERVED if endpoint in manifest.endpoints)
        self._heads: dict[Endpoint, OpenVinoGraph | None] = {}
        self._graphs: dict[Endpoint, OpenVinoGraph] = {}
        read = _Reading(self._read)
        library = self._openvino.library
        shared = None if self._is_int8 else share(library, folder, manifest, served, read.peek)
        if shared is not None:
            self.base, self._heads = shared.base, shared.heads
        else:
            self._graphs = {
                endpoint: self._openvino.graph(partial(read.take, endpoint)) for endpoint in served
            }

    def run(self, endpoint: Endpoint, images: Pixels) -> Outputs:
        """See `Runtime`."""
        return self.answers((endpoint,), images)[endpoint]

    def answers(self, endpoints: Sequence[Endpoint], images: Pixels) -> dict[Endpoint, Outputs]:
        """See `Runtime`."""
        if self.base is None:
            return {endpoint: self._graphs[endpoint].run(images)[0] for endpoint in endpoints}
        base_output = self.base.run(images)
        return {endpoint: self.finish(endpoint, base_output) for endpoint in endpoints}

    def finish(self, endpoint: Endpoint, base_output: BaseOutput) -> Outputs:
        """See `Runtime`."""
        head = self._heads[endpoint]
        return base_output if head is None else head.run(base_output)[0]

    @property
    def parallel_batches(self) -> int:
        """See `Runtime`."""
        if self.base is not None:
            return self.base.parallel_batches
        return max(graph.parallel_batches for graph in self._graphs.values())

    def parallelize(self) -> None:
        """See `Runtime`."""
        if self.base is not None:
            self.base.parallelize()
        for graph in self._graphs.values():
            graph.parallelize()

    def _read(self, endpoint: Endpoint) -> Any:
        core = self._openvino.core
        if self._is_int8 and self._is_quantized:
            return core.read_model(self._folder / INT8_FOLDER / f"{endpoint}.xml")
        with signature_view(self._folder / "saved_model", endpoint) as view:
            graph = core.read_model(view)
        if self._is_int8 and not quantize(self._openvino.module, graph, published_ranges()):
            raise RuntimeUnavailableError(
                "this version is not quantized to int8, and no ranges are known for its weights"
            )
        return graph


class OpenVinoExplainer:
    """One explaining endpoint of a SavedModel, gradients included, compiled by OpenVINO.

    Args:
        folder: The version's.
        endpoint: `explain` or `explain_hires`.
        precision: To compute in: float32 or bfloat16.
        options: For the number of threads.

    Raises:
        RuntimeUnavailableError: As for `OpenVinoRuntime`, or a gradient has no converter.
    """

    def __init__(
        self, folder: Path, endpoint: Endpoint, precision: Precision, options: RuntimeOptions
    ) -> None:
        self.name = f"openvino-{precision}"
        self._outputs = (OUTPUTS[endpoint], TARGET, PROBABILITY)
        self._endpoint = endpoint
        self._openvino = _OpenVino(folder, precision, options)
        read = _Reading(lambda _: self._read())
        shared = share_graph(self._openvino.library, endpoint, read.peek(endpoint))
        self._base = shared and shared[0]
        self._graph = shared[1] if shared else self._openvino.graph(partial(read.take, endpoint))

    def explain(
        self, images: Pixels, classes: npt.NDArray[np.int32]
    ) -> dict[str, npt.NDArray[Any]]:
        """All outputs of the endpoint for the given class of each image, by name."""
        if self._base is None:
            outputs = self._graph.run(images, classes)
        else:
            outputs = self._graph.run(self._base.run(images), classes)
            self._graph.release_buffers()  # maps of a whole batch, which every version would keep
        return dict(zip(self._outputs, outputs, strict=True))

    def parallelize(self) -> bool:
        """See `OpenVinoGraph.parallelize`.

        Returns:
            Whether nothing has run yet; false if its base is that of another version that has.
        """
        if self._base is not None:
            return self._base.parallelize()
        self._graph.parallelize(lambda count: np.zeros(count, np.int32))
        return True

    def _read(self) -> Any:
        """The endpoint from images and classes to grids, targets and probabilities, in order."""
        from openvino.frontend import FrontEndManager  # needed only for explanations
        from openvino.frontend.tensorflow import ConversionExtension

        frontend = FrontEndManager().load_by_framework("tf")
        operations = self._openvino.module.opset13
        all_converters = converters(operations) | gradient_converters(operations)
        for name, convert in all_converters.items():
            frontend.add_extension(ConversionExtension(name, convert))
        try:
            with signature_view(self._openvino.folder / "saved_model", self._endpoint) as view:
                read = frontend.convert(frontend.load(str(view)))
            results = [
                operations.result(read.output(name).get_node().input_value(0))
                for name in self._outputs
            ]
            inputs = [read.input(name).get_node() for name in ("images", "class_index")]
            return self._openvino.module.Model(results, inputs, self._endpoint)
        except Exception as error:  # its frontend raises no common class
            reasons = [
                line
                for line in str(error).splitlines()
                if any(map(line.__contains__, _UNSUPPORTED))
            ]
            raise RuntimeUnavailableError(
                f"OpenVINO cannot read {self._endpoint}. {''.join(reasons[:1]).strip(' -')}"
            ) from error


class _Reading:
    """Reads each graph once, both for dividing it and for compiling it whole.

    A graph is given away when it is compiled, since it is not needed after that.
    """

    def __init__(self, read: Callable[[Endpoint], Any]) -> None:
        self._read = read
        self._graphs: dict[Endpoint, Any] = {}

    def peek(self, endpoint: Endpoint) -> Any:
        if endpoint not in self._graphs:
            self._graphs[endpoint] = self._read(endpoint)
        return self._graphs[endpoint]

    def take(self, endpoint: Endpoint) -> Any:
        return self._graphs.pop(endpoint, None) or self._read(endpoint)

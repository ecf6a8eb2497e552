"""Runs a version by OpenVINO on the processor: the same SavedModel, 2 to 4 times as fast."""

from collections.abc import Sequence
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
        self.core = converting_core(self.module)
        self.folder = folder
        self._precision = precision
        self._threads = options.threads
        capable = self.core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if precision == "bfloat16" and "BF16" not in capable:
            raise RuntimeUnavailableError("this processor does not compute in bfloat16")

    def graph(self, read: Any) -> OpenVinoGraph:
        return OpenVinoGraph(
            self.module,
            self.core,
            read,
            precision=self._precision,
            threads=self._threads,
            large=is_large(self.folder),
        )


class OpenVinoRuntime:
    """A SavedModel, or the version's int8 graph, compiled by OpenVINO for this processor.

    Args:
        folder: The version's.
        manifest: Lists its endpoints.
        precision: To compute in. int8 needs a quantized version.
        options: For the number of threads.

    Raises:
        RuntimeUnavailableError: OpenVINO is not installed, cannot read the graph, or the
            processor or the version lacks the precision.
    """

    pads = False

    def __init__(
        self, folder: Path, manifest: Draft, precision: Precision, options: RuntimeOptions
    ) -> None:
        self.name = f"openvino-{precision}"
        self._openvino = _OpenVino(folder, precision, options)
        if precision == "int8" and not (folder / INT8_FOLDER).is_dir():
            raise RuntimeUnavailableError("this version is not quantized to int8")
        self._folder = folder
        self._is_int8 = precision == "int8"
        self._in_pieces: bool | None = None
        self._graphs = {
            endpoint: self._openvino.graph(lambda endpoint=endpoint: self._read(endpoint))
            for endpoint in SERVED
            if endpoint in manifest.endpoints
        }

    def run(self, endpoint: Endpoint, images: Pixels) -> Outputs:
        """See `Runtime`."""
        (output,) = self._graphs[endpoint].run(images)
        return output

    def tune(self, endpoint: Endpoint, sizes: Sequence[int]) -> None:
        """See `OpenVinoGraph.tune`; the first endpoint decides for all."""
        self._in_pieces = self._graphs[endpoint].tune(sizes, known=self._in_pieces)

    def _read(self, endpoint: Endpoint) -> Any:
        core = self._openvino.core
        if self._is_int8:
            return core.read_model(self._folder / INT8_FOLDER / f"{endpoint}.xml")
        with signature_view(self._folder / "saved_model", endpoint) as view:
            return core.read_model(view)


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
        self._graph = self._openvino.graph(self._read)

    def explain(
        self, images: Pixels, classes: npt.NDArray[np.int32]
    ) -> dict[str, npt.NDArray[Any]]:
        """All outputs of the endpoint for the given class of each image, by name."""
        return dict(zip(self._outputs, self._graph.run(images, classes), strict=True))

    def tune(self, sizes: Sequence[int]) -> None:
        """See `OpenVinoGraph.tune`."""
        self._graph.tune(sizes, lambda count: np.zeros(count, np.int32))

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

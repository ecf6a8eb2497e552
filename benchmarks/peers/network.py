"""Code that all peers share: settings, decoding, and the SavedModel as a TensorFlow function."""

import os
import sys
from dataclasses import dataclass
from threading import Lock
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]

SHORT_SIDE = 256
TOP = 5
MAX_BATCH = 16


@dataclass(frozen=True, slots=True)
class PeerSettings:
    """The settings of one peer.

    Attributes:
        saved_model: The folder to serve.
        graph: OpenVINO's file of the same network; empty to compute with TensorFlow.
        port: Port on 127.0.0.1.
        size: Side of the network's square input in pixels.
        processes: Number of copies of the network.
        threads: Threads of each copy.
    """

    saved_model: str
    graph: str
    port: int
    size: int
    processes: int
    threads: int

    @classmethod
    def read(cls) -> "PeerSettings":
        """Read the environment variables."""
        env = os.environ
        return cls(
            env["PEER_SAVED_MODEL"],
            env["PEER_GRAPH"],
            int(env["PEER_PORT"]),
            int(env["PEER_SIZE"]),
            int(env["PEER_PROCESSES"]),
            int(env["PEER_THREADS"]),
        )


def decode(data: bytes, size: int) -> Pixels:
    """A JPEG as RGB of shape (size, size, 3): short side to 256, then a center crop."""
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if bgr is None:
        raise ValueError("not an image")
    height, width = bgr.shape[:2]
    side = round(min(height, width) * size / SHORT_SIDE)
    top, left = (height - side) // 2, (width - side) // 2
    square = bgr[top : top + side, left : left + side]
    small = cv2.resize(square, (size, size), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_BGR2RGB), np.uint8)


def network_of(settings: PeerSettings) -> "Network":
    """The network, loaded and warmed up with several batch sizes."""
    network = OpenVinoNetwork(settings) if settings.graph else SavedNetwork(settings)
    for count in (1, 2, 4, 8, MAX_BATCH):
        network.run(np.zeros((count, settings.size, settings.size, 3), np.uint8))
    return network


class Network(Protocol):
    """What computes a batch."""

    def run(self, images: Pixels) -> npt.NDArray[np.float32]:
        """Probabilities (n, classes) of uint8 RGB images (n, size, size, 3)."""
        ...


class SavedNetwork:
    """The SavedModel, run by TensorFlow in float32."""

    def __init__(self, settings: PeerSettings) -> None:
        import tensorflow as tf  # not needed in a process that only decodes

        cv2.setNumThreads(1)
        tf.config.threading.set_intra_op_parallelism_threads(settings.threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        self._constant = tf.constant
        self._loaded = tf.saved_model.load(settings.saved_model)
        self._serve = self._loaded.signatures["serve"]

    def run(self, images: Pixels) -> npt.NDArray[np.float32]:
        """See `Network`."""
        (output,) = self._serve(images=self._constant(images)).values()
        probabilities: npt.NDArray[np.float32] = output.numpy()
        return probabilities


class OpenVinoNetwork:
    """Opsin's graph, run by OpenVINO in the precision that Opsin would choose."""

    def __init__(self, settings: PeerSettings) -> None:
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # it calls home
        import openvino  # not needed in a process that only decodes

        cv2.setNumThreads(1)
        core = openvino.Core()
        capable = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        properties = {
            "INFERENCE_PRECISION_HINT": "bf16" if capable else "f32",
            "INFERENCE_NUM_THREADS": settings.threads,
            "NUM_STREAMS": 1,
        }
        compiled = core.compile_model(settings.graph, "CPU", properties)
        self._request = compiled.create_infer_request()
        self._lock = Lock()

    def run(self, images: Pixels) -> npt.NDArray[np.float32]:
        """See `Network`; any thread may call it."""
        with self._lock:
            self._request.infer([images])
            output: npt.NDArray[np.float32] = self._request.output_tensors[0].data.copy()
        return output


def answer(probabilities: npt.NDArray[np.float32]) -> dict[str, Any]:
    """The JSON response for one image: its most probable classes."""
    best = np.argpartition(-probabilities, TOP)[:TOP]
    ranked = best[np.argsort(-probabilities[best])]
    return {
        "predictions": [{"index": int(i), "probability": float(probabilities[i])} for i in ranked]
    }

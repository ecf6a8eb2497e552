"""LitServe: batches with `batch` and `unbatch`, several workers per device.

After https://lightning.ai/docs/litserve/features/batching and the guide "Speed up serving by
200x": `max_batch_size` and a short `batch_timeout`, `workers_per_device` for the cores.
"""

from typing import Annotated, Any

import litserve
import numpy as np
import numpy.typing as npt
from fastapi import Body

from benchmarks.peers.network import PeerSettings, Pixels, answer, decode, network_of


class Classify(litserve.LitAPI):
    """Decode, batch, run, unbatch, encode."""

    def setup(self, device: str) -> None:  # noqa: ARG002
        self._settings = PeerSettings.read()
        self._network = network_of(self._settings)

    def decode_request(self, request: Annotated[bytes, Body(media_type="image/jpeg")]) -> Pixels:
        return decode(request, self._settings.size)

    def batch(self, inputs: list[Pixels]) -> Pixels:
        return np.stack(inputs)

    def predict(self, x: Pixels) -> npt.NDArray[np.float32]:
        return self._network.run(x)

    def unbatch(self, output: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
        return list(output)

    def encode_response(self, output: npt.NDArray[np.float32]) -> dict[str, Any]:
        return answer(output)


if __name__ == "__main__":
    settings = PeerSettings.read()
    api = Classify(max_batch_size=8, batch_timeout=0.002, api_path="/classify")
    server = litserve.LitServer(
        api, accelerator="cpu", devices=1, workers_per_device=settings.processes, timeout=30
    )
    server.run(
        host="127.0.0.1",
        port=settings.port,
        num_api_servers=1,
        log_level="warning",
        generate_client_file=False,
        access_log=False,
    )

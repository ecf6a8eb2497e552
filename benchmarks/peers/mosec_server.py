"""mosec: decoding and the batched network as two stages in separate processes.

After its ResNet-50 example (https://mosecorg.github.io/mosec/examples/pytorch.html): OpenCV in
a preprocessing stage, `max_batch_size` and `max_wait_time` for the network.
"""

import json
import sys
from typing import Any

import numpy as np
from mosec import Server, ValidationError, Worker

from benchmarks.peers.network import MAX_BATCH, PeerSettings, Pixels, answer, decode, network_of


class Decode(Worker):
    """Decodes one image."""

    def __init__(self) -> None:
        super().__init__()
        self._size = PeerSettings.read().size

    def deserialize(self, data: bytes) -> Pixels:
        try:
            return decode(data, self._size)
        except ValueError as error:
            raise ValidationError(str(error)) from error

    def forward(self, data: Pixels) -> Pixels:
        return data


class Classify(Worker):
    """Classifies a batch of images."""

    def __init__(self) -> None:
        super().__init__()
        self._network = network_of(PeerSettings.read())

    def forward(self, data: list[Pixels]) -> list[dict[str, Any]]:
        return [answer(row) for row in self._network.run(np.stack(data))]

    def serialize(self, data: dict[str, Any]) -> bytes:
        return json.dumps(data).encode()  # mosec's default is indented


if __name__ == "__main__":
    settings = PeerSettings.read()
    # mosec reads its address and port from the command line.
    sys.argv += ["--address", "127.0.0.1", "--port", str(settings.port), "--log-level", "error"]
    sys.argv += ["--timeout", "30000", "--capacity", "1024"]
    server = Server()
    server.append_worker(Decode, num=1)
    server.append_worker(
        Classify, num=settings.processes, max_batch_size=MAX_BATCH, max_wait_time=2
    )
    server.run()

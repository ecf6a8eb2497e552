"""BentoML: adaptive batching in one service, with one worker per core.

After https://docs.bentoml.com/en/latest/get-started/adaptive-batching.html: a batchable API with
`max_batch_size` and a latency target; the dispatcher adapts the window. Pinned below 1.4.39, which
drops requests under this load.
"""

from pathlib import Path
from typing import Annotated, Any

import bentoml
import numpy as np
from bentoml.validators import ContentType

from benchmarks.peers.network import PeerSettings, answer, decode, network_of

settings = PeerSettings.read()


@bentoml.service(
    workers=settings.processes,
    threads=1,
    traffic={"timeout": 30, "max_concurrency": 256},
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
)
class Classify:
    """One copy of the network per worker."""

    def __init__(self) -> None:
        self._network = network_of(settings)

    @bentoml.api(batchable=True, max_batch_size=16, max_latency_ms=1000)
    def classify(
        self, images: list[Annotated[Path, ContentType("image/jpeg")]]
    ) -> list[dict[str, Any]]:
        pixels = np.stack([decode(image.read_bytes(), settings.size) for image in images])
        return [answer(row) for row in self._network.run(pixels)]

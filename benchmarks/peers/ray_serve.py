"""Ray Serve: `@serve.batch` in one replica per core, behind its HTTP proxy.

After https://docs.ray.io/en/latest/serve/advanced-guides/performance.html and dyn-req-batch: the
caller's environment sets the throughput optimization of the documentation, the batch window is
short, and access logs are off.
"""

import os
import signal
from typing import Any

import numpy as np
import ray
from ray import serve
from ray.serve.config import HTTPOptions
from ray.serve.schema import LoggingConfig
from starlette.requests import Request

from benchmarks.peers.network import PeerSettings, answer, decode, network_of

settings = PeerSettings.read()


@serve.deployment(
    num_replicas=settings.processes,
    max_ongoing_requests=256,
    ray_actor_options={"num_cpus": 0.5},
    logging_config=LoggingConfig(enable_access_log=False, log_level="ERROR"),
)
class Classify:
    """One copy of the network per replica."""

    def __init__(self) -> None:
        self._network = network_of(settings)

    @serve.batch(max_batch_size=8, batch_wait_timeout_s=0.002)
    async def _run(self, images: list[bytes]) -> list[dict[str, Any]]:
        pixels = np.stack([decode(image, settings.size) for image in images])
        return [answer(row) for row in self._network.run(pixels)]

    async def __call__(self, request: Request) -> dict[str, Any]:
        result: dict[str, Any] = await self._run(await request.body())
        return result


if __name__ == "__main__":
    names = ("PEER_SAVED_MODEL", "PEER_PORT", "PEER_SIZE", "PEER_PROCESSES", "PEER_THREADS")
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=100 * 1024 * 1024,
        runtime_env={"env_vars": {name: os.environ[name] for name in names}},
    )
    serve.start(http_options=HTTPOptions(host="127.0.0.1", port=settings.port))
    serve.run(Classify.bind(), route_prefix="/classify")
    try:
        signal.sigwait({signal.SIGTERM, signal.SIGINT})
    finally:
        serve.shutdown()
        ray.shutdown()

"""FastAPI and a TensorFlow function without batching: the simplest server.

Two processes with one thread each use two cores better than one process with two. The route is a
plain `def`, so that FastAPI runs it in its thread pool and does not block the event loop.
"""

from typing import Annotated, Any

import numpy as np
import uvicorn
from fastapi import Body, FastAPI

from benchmarks.peers.network import PeerSettings, answer, decode, network_of


def create_app() -> FastAPI:
    """The application of one process, with the network loaded."""
    settings = PeerSettings.read()
    network = network_of(settings)
    app = FastAPI()

    @app.post("/classify")
    def classify(image: Annotated[bytes, Body(media_type="image/jpeg")]) -> dict[str, Any]:
        pixels = decode(image, settings.size)
        return answer(network.run(pixels[np.newaxis])[0])

    @app.get("/health")
    def health() -> str:
        return "ok"

    return app


if __name__ == "__main__":
    uvicorn.run(
        "benchmarks.peers.fastapi_plain:create_app",
        factory=True,
        host="127.0.0.1",
        port=PeerSettings.read().port,
        workers=PeerSettings.read().processes,
        access_log=False,
        log_level="warning",
        # Importing TensorFlow takes longer than uvicorn's default of five seconds.
        timeout_worker_healthcheck=60,
    )

"""The service behind a real socket, as `opsin serve` runs it, in a thread of the test."""

import asyncio
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import httpx
import pytest
import uvicorn

from contracts.inference.explanation import LayerInfo
from contracts.settings import Settings
from models.explain.layers import write_layers
from models.store.manifest import MANIFEST
from service.server import server_config
from tests.ports import free_port
from tests.service.nginx import nginx
from tests.service.parts import SERVED, FakeServices

_POLL_SECONDS = 0.005


@pytest.fixture(autouse=True)
def weights(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Published weights, as far as a request can tell; no test here trains."""
    if "without_weights" not in request.fixturenames:
        monkeypatch.setattr("service.training.submit.check_weights", lambda *_: None)


@pytest.fixture
def without_weights() -> None:
    """Asks for the real check."""


@pytest.fixture
def settings() -> Settings:
    return Settings(_env_file=None, max_images=4, max_image_bytes=20_000)


@pytest.fixture
def fakes() -> FakeServices:
    return FakeServices()


class PromptServer(uvicorn.Server):
    """Stops as soon as its connections are closed; uvicorn takes a sixth of a second more."""

    async def main_loop(self) -> None:
        while not await self.on_tick(0):  # noqa: ASYNC110  another thread sets it
            await asyncio.sleep(_POLL_SECONDS)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in (*self.servers, *(sockets or [])):
            server.close()
        state = self.server_state
        for connection in list(state.connections):
            connection.shutdown()
        with suppress(TimeoutError):
            async with asyncio.timeout(self.config.timeout_graceful_shutdown):
                while state.connections or state.tasks:  # noqa: ASYNC110  uvicorn tells nobody
                    await asyncio.sleep(_POLL_SECONDS)
        for task in state.tasks:
            task.cancel()
        await self.lifespan.shutdown()


@contextmanager
def listening(settings: Settings, fakes: FakeServices) -> Iterator[str]:
    """The service on a port of its own, or behind nginx and a prefix; yields its address."""
    if not os.environ.get("OPSIN_TEST_THROUGH_NGINX"):
        with _listening_directly(settings, fakes) as url:
            yield url
        return
    settings = settings.model_copy(update={"root_path": "/opsin"})
    port, largest = free_port(), "client_max_body_size 2g; proxy_request_buffering off;"
    # Otherwise nginx asks to close each connection, and a refusal may be lost while it still sends.
    largest += ' proxy_set_header Connection "";'
    with tempfile.TemporaryDirectory() as folder, _listening_directly(settings, fakes) as url:
        location = f"location /opsin/ {{ proxy_pass {url}/; proxy_http_version 1.1; {largest} }}"
        # nginx would merge slashes in a row; these tests are about the service's own answer.
        servers = f"server {{ listen 127.0.0.1:{port}; merge_slashes off; {location} }}"
        with nginx(Path(folder), servers, port):
            yield f"http://127.0.0.1:{port}/opsin"


@contextmanager
def _listening_directly(settings: Settings, fakes: FakeServices) -> Iterator[str]:
    server = PromptServer(server_config(settings, fakes.open_services))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            until = time.monotonic() + 60
            while not server.started and time.monotonic() < until:
                time.sleep(_POLL_SECONDS)
            assert server.started
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(timeout=60)
            assert not thread.is_alive()


@pytest.fixture
def client(fakes: FakeServices, settings: Settings) -> Iterator[httpx.Client]:
    with listening(settings, fakes) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def steady() -> Iterator[httpx.Client]:
    """A service for all tests of a module that change nothing in it."""
    settings = Settings(_env_file=None, max_images=4, max_image_bytes=20_000)
    with listening(settings, FakeServices()) as url, httpx.Client(base_url=url) as client:
        yield client


@pytest.fixture
def served() -> Callable[[Settings, FakeServices], AbstractContextManager[str]]:
    return listening


@pytest.fixture
def with_layers(fakes: FakeServices) -> FakeServices:
    """SqueezeNet's version in the store, so far as its list of layers."""
    folder = fakes.store._folder("squeezenet") / "1"
    folder.mkdir(parents=True)
    (folder / MANIFEST).write_text(SERVED.manifest.model_dump_json())
    shapes: dict[str, list[int | None]] = {
        "fire9_concat": [13, 13, 512],
        "conv1": [113, 113, 64],
        "predictions": [1000],
    }
    write_layers(
        folder,
        [
            LayerInfo(name=name, type="Layer", output_shape=shape, explainable=len(shape) == 3)
            for name, shape in shapes.items()
        ],
    )
    return fakes

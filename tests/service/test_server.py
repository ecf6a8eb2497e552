import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from contracts.settings import Settings
from service.connections.connection_limits import protocol_class
from service.connections.descriptors import allowed_connections
from service.server import GracefulServer, UnprotectedAddressError, server_config
from tests.ports import free_port
from tests.service.parts import FakeServices, gray_png

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
from contracts.settings import Settings
from service.connections.descriptors import allowed_connections
from service.server import serve
from tests.service.parts import FakeServices
fakes = FakeServices()
fakes.dispatcher.delay = {delay}
serve(Settings(_env_file=None, port={port}, shutdown_seconds={seconds}), fakes.open_services)
"""


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "example.org"])
def test_a_public_address_needs_a_key(fakes: FakeServices, host: str) -> None:
    with pytest.raises(UnprotectedAddressError, match="OPSIN_API_KEY"):
        server_config(Settings(_env_file=None, host=host), fakes.open_services)
    keyed = Settings(_env_file=None, host=host, api_key="a-key-of-sixteen-or-more")
    assert server_config(keyed, fakes.open_services).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.3.2.1"])
def test_loopback_needs_no_key(fakes: FakeServices, host: str) -> None:
    assert not server_config(Settings(_env_file=None, host=host), fakes.open_services).access_log


def test_who_comes_after_hundreds_that_hung_up_does_not_wait_for_their_requests() -> None:
    """A network of its own begins in turn, but only once it is accepted."""
    begun: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        del receive
        begun.append(scope["path"])
        time.sleep(0.005)  # noqa: ASYNC251  the work of a request
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    kind = protocol_class(Settings(_env_file=None))
    config = uvicorn.Config(
        app, http=kind, loop="uvloop", ws="none", lifespan="off", log_config=None
    )
    server = GracefulServer(config, shutdown_seconds=1)
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as listener:
        address = listener.getsockname()
        for _ in range(400):
            with socket.create_connection(address, source_address=("127.0.0.2", 0)) as wire:
                wire.sendall(b"GET /gone HTTP/1.1\r\nHost: x\r\n\r\n")
        with socket.create_connection(address, 60, source_address=("127.0.0.3", 0)) as wire:
            wire.sendall(b"GET /waits HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
            thread.start()
            try:
                assert wire.recv(1000).startswith(b"HTTP/1.1 204")
            finally:
                server.should_exit = True
                thread.join(60)
    assert begun.index("/waits") < 200


def start(
    delay: float, seconds: float = 2, files: str | None = None
) -> tuple[subprocess.Popen[str], str]:
    port = free_port()
    program = PROGRAM.format(port=port, delay=delay, seconds=seconds)
    limit = [] if files is None else ["prlimit", f"--nofile={files}"]
    process = subprocess.Popen(
        [*limit, sys.executable, "-c", program],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
    )
    url = f"http://127.0.0.1:{port}"
    until = time.monotonic() + 90
    while time.monotonic() < until:
        try:
            httpx.get(url + "/healthz")
        except httpx.TransportError:
            time.sleep(0.05)
        else:
            return process, url
    process.kill()
    raise AssertionError(process.communicate()[1])


_COUNT = """
import gc, os, signal, sys
from contracts.settings import Settings
from service.connections.descriptors import allowed_connections
from service.server import serve
from tests.service.parts import FakeServices
def count():
    print(gc.get_freeze_count(), len(gc.get_objects()), sys.getswitchinterval(), flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
settings = Settings(_env_file=None, port={port}, shutdown_seconds=1)
serve(settings, FakeServices().open_services, ready=count)
"""


def test_neither_the_garbage_collector_nor_a_thread_that_computes_stops_the_event_loop() -> None:
    """Each would hold the interpreter lock: for 0.1 s and more, and for 5 ms each time."""
    port = free_port()
    answer = subprocess.run(
        [sys.executable, "-c", _COUNT.format(port=port)],
        check=False,  # it ends by the signal
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
    )
    passed_over, examined, switch_seconds = map(float, answer.stdout.split())
    assert passed_over > 50_000
    assert examined < passed_over / 20
    assert switch_seconds <= 0.001


@pytest.mark.skipif(sys.platform != "linux", reason="prlimit")
@pytest.mark.parametrize("files", ["400:400", "100:2000"])
def test_connections_leave_open_files_for_the_rest(files: str) -> None:
    """The kernel would otherwise refuse connections before any can be closed to make room."""
    process, url = start(0, files=files)
    port = httpx.URL(url).port or 0
    try:
        with ExitStack() as stack:
            for _ in range(420):
                wire = socket.create_connection(("127.0.0.1", port), 60, ("127.0.0.2", 0))
                stack.enter_context(wire)
                wire.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                wire.recv(4096)
            for _ in range(10):
                assert httpx.get(url + "/healthz").status_code == 200
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("limits", "allowed", "raised"),
    [
        ((1024, 4096), 1000, 1538),
        ((1024, 1100), 649, 1100),
        ((300, 300), 9, 300),
        ((100, 100), 1, 100),
    ],
)
def test_the_limit_on_open_files_is_raised_as_far_as_needed(
    monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int], allowed: int, raised: int
) -> None:
    now = [limits]
    monkeypatch.setattr(resource, "getrlimit", lambda _: now[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: now.append(new))
    assert allowed_connections(1000) == allowed
    assert now[-1] == (raised, limits[1])


@pytest.mark.parametrize(("delay", "finishes"), [(2, True), (60, False)])
def test_a_stopped_server_finishes_within_its_time(delay: float, finishes: bool) -> None:
    process, url = start(delay, seconds=30 if finishes else 2)
    try:
        with httpx.Client(timeout=60) as client:
            request = client.build_request(
                "POST",
                url + "/v1/classify",
                content=gray_png(),
                headers={"Content-Type": "image/png"},
            )
            client.get(url + "/healthz")
            stopper = subprocess.Popen(["sh", "-c", f"sleep 1; kill -TERM {process.pid}"])
            started = time.monotonic()
            if finishes:
                assert client.send(request).status_code == 200
            else:
                # The connection may be gone before the answer.
                with suppress(httpx.RemoteProtocolError):
                    cut = client.send(request)
                    assert (cut.status_code, cut.json()["code"]) == (503, "draining")
            assert time.monotonic() - started < 30
            stopper.wait(60)
        log = process.communicate(timeout=60)[1]
    finally:
        if process.poll() is None:
            process.kill()
    assert process.returncode == -signal.SIGTERM
    assert '"event": "starting"' in log

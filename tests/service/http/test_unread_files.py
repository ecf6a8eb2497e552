"""Clients that hardly read a file: how many files the service has open for them, beside them."""

import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from contracts.held_files import MAX_HELD
from contracts.jobs import Artifact
from contracts.settings import Settings
from models.store.store import Store
from service.connections.descriptors import RESERVED
from tests.models.drafts import DRAFT, write_files
from tests.service.parts import FakeServices

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc")

CLIENTS = 80
CONTENT = bytes(range(256)) * 40_000  # more than the sockets take
JOB = "job_0123456789abcdef"
ARTIFACT = f"/v1/jobs/{JOB}/artifacts/result.png"
DOWNLOAD = "/v1/models/squeezenet/versions/1/download?format="
PHOTO = "/_console/samples/cat.png"


@pytest.fixture
def url(
    served: Callable[[Settings, FakeServices], AbstractContextManager[str]],
    fakes: FakeServices,
    tmp_path: Path,
) -> Iterator[str]:
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples/cat.png").write_bytes(CONTENT)
    fakes.files.store_artifact(JOB, "result.png", CONTENT)
    kept = Artifact(name="result.png", media_type="image/png", size=len(CONTENT), url=ARTIFACT)
    fakes.jobs.put(JOB, kind="dream", state="running", attempt=1, artifacts=[kept])
    publish(fakes.store)
    with served(Settings(_env_file=None, home=tmp_path), fakes) as url:
        yield url


def publish(store: Store) -> None:
    with store.staging() as folder:
        write_files(folder)
        (folder / "model.keras").write_bytes(CONTENT)
        (folder / "saved_model/weights").write_bytes(CONTENT)
        store.publish("squeezenet", folder, DRAFT)


@contextmanager
def unread(url: str, path: str, clients: int = CLIENTS) -> Iterator[None]:
    """Clients whose downloads have begun, and that read no more than their beginning."""
    port, sockets = httpx.URL(url).port, []
    try:
        for _ in range(clients):
            client = socket.socket()
            sockets.append(client)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.settimeout(60)
            client.connect(("127.0.0.1", port))
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        for client in sockets:
            assert client.recv(12) == b"HTTP/1.1 200"
        time.sleep(0.5)  # until the sockets are full
        yield
    finally:
        for client in sockets:
            client.close()


def open_files() -> int:
    """Descriptors of this process, the service's, that are neither sockets nor pipes."""
    links = []
    for path in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            links.append(str(path.readlink()))
    return sum(link.startswith("/") for link in links)


@pytest.mark.parametrize("path", ["/docs/assets/swagger-ui-bundle.js", PHOTO, "/openapi.json"])
def test_what_is_in_memory_takes_no_file(url: str, path: str) -> None:
    httpx.get(url + path).raise_for_status()
    before = open_files()
    with unread(url, path):
        assert open_files() - before < 5


@pytest.mark.parametrize("path", [ARTIFACT, f"{DOWNLOAD}keras", f"{DOWNLOAD}saved_model"])
def test_few_files_are_held_and_all_clients_are_served(url: str, path: str) -> None:
    whole = httpx.get(url + path).content
    before = open_files()
    with unread(url, path):
        assert open_files() - before <= MAX_HELD + 5
        assert httpx.get(url + path).content == whole
    until = time.monotonic() + 60
    while open_files() > before + 5:
        assert time.monotonic() < until, "files of clients that have gone are open"
        time.sleep(0.05)


def test_held_files_leave_room_for_the_rest() -> None:
    assert MAX_HELD <= RESERVED // 8


def test_no_route_keeps_a_file_of_its_own_open() -> None:
    for path in Path("service").rglob("*.py"):
        assert "FileResponse" not in path.read_text("utf-8"), path
        assert "StaticFiles" not in path.read_text("utf-8"), path

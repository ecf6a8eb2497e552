"""Real pictures over real HTTP, and an API that is killed while they arrive. Needs no worker."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.flow.running import READY_SECONDS, Running
from tests.models.datasets.packing import on_disk, tarred, zipped

pytestmark = pytest.mark.shared


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Running]:
    """The API alone."""
    weights = tmp_path / "weights"
    weights.mkdir()
    installation = Running(tmp_path / "home", weights, {"OPSIN_MIN_FREE_DISK_BYTES": "0"})
    installation.valkey.start()
    try:
        begin(installation)
        yield installation
    finally:
        installation.close()


def begin(installation: Running) -> None:
    installation.run("api", "serve")
    installation.await_that(lambda: installation.get("/healthz").status_code == 200, READY_SECONDS)


def faces(shared: Path) -> dict[str, bytes]:
    root = shared / "data" / "att-faces"
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.png")}


def test_real_faces_and_a_killed_upload(api: Running, shared: Path) -> None:
    pictures = faces(shared)
    answers = [
        httpx.post(
            f"{api.url}/v1/datasets",
            files={"archive": (f"faces{ending}", archive)},
            timeout=60,
        )
        for ending, archive in (
            (".zip", zipped(pictures)),
            (".tar.gz", tarred(pictures, packed=True)),
        )
    ]
    assert [one.status_code for one in answers] == [201, 201], answers[0].text
    one, other = (answer.json() for answer in answers)
    assert (one["digest"], one["name"]) == (other["digest"], "faces")
    assert set(one["classes"].values()) == {10}
    assert one["trainable"]
    assert one["rejected"] == []
    before = on_disk(api.home / "datasets")

    with half_sent(api, zipped(pictures)):
        assert on_disk(api.home / "datasets") > before, "some of it has arrived"
        api.kill("api")
    begin(api)
    assert on_disk(api.home / "datasets") == before
    assert len(api.get("/v1/datasets").json()["items"]) == 2
    for made in (one, other):
        assert httpx.delete(f"{api.url}/v1/datasets/{made['id']}").status_code == 204
    assert on_disk(api.home / "datasets") == {".staging"}


def half_sent(api: Running, archive: bytes) -> socket.socket:
    """Send the first half of a form, and wait until the API has written of it."""
    head = b'--x\r\nContent-Disposition: form-data; name="archive"; filename="a.zip"\r\n\r\n'
    address = urlsplit(api.url)
    connection = socket.create_connection((address.hostname, address.port), timeout=10)
    connection.sendall(
        b"POST /v1/datasets HTTP/1.1\r\nHost: localhost\r\n"
        b"Content-Type: multipart/form-data; boundary=x\r\n"
        b"Content-Length: %d\r\n\r\n" % (len(head) + len(archive) + 9)
    )
    connection.sendall(head + archive[: len(archive) // 2])
    deadline = time.monotonic() + 10
    while not list(api.home.glob("datasets/.staging/*/archive")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return connection

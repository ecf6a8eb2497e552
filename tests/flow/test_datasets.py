"""Uploads of real images, and an API that is killed during one. Needs no worker."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.flow.installation import READY_SECONDS, Installation
from tests.models.datasets.packing import on_disk, tarred, zipped

pytestmark = pytest.mark.shared


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Installation]:
    """An installation with only the API."""
    weights = tmp_path / "weights"
    weights.mkdir()
    installation = Installation(tmp_path / "home", weights, {"OPSIN_MIN_FREE_DISK_BYTES": "0"})
    installation.valkey.start()
    try:
        start_api(installation)
        yield installation
    finally:
        installation.close()


def start_api(installation: Installation) -> None:
    installation.run("api", "serve")
    installation.wait_until(lambda: installation.get("/healthz").status_code == 200, READY_SECONDS)


def read_faces(shared: Path) -> dict[str, bytes]:
    root = shared / "data" / "att-faces"
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.png")}


def test_a_killed_upload_leaves_nothing(api: Installation, shared: Path) -> None:
    images = read_faces(shared)
    answers = [
        httpx.post(
            f"{api.url}/v1/datasets",
            files={"archive": (f"faces{ending}", archive)},
            timeout=60,
        )
        for ending, archive in (
            (".zip", zipped(images)),
            (".tar.gz", tarred(images, packed=True)),
        )
    ]
    assert [answer.status_code for answer in answers] == [201, 201], answers[0].text
    from_zip, from_tar = (answer.json() for answer in answers)
    assert (from_zip["digest"], from_zip["name"]) == (from_tar["digest"], "faces")
    assert set(from_zip["classes"].values()) == {10}
    assert from_zip["trainable"]
    assert from_zip["rejected"] == []
    before = on_disk(api.home / "datasets")

    with send_half(api, zipped(images)):
        assert on_disk(api.home / "datasets") > before, "a part has arrived"
        api.kill("api")
    start_api(api)
    assert on_disk(api.home / "datasets") == before
    assert len(api.get("/v1/datasets").json()["items"]) == 2
    for dataset in (from_zip, from_tar):
        assert httpx.delete(f"{api.url}/v1/datasets/{dataset['id']}").status_code == 204
    assert on_disk(api.home / "datasets") == {".staging"}


def send_half(api: Installation, archive: bytes) -> socket.socket:
    """Send the first half of a form, and wait until the API has written some of it to disk."""
    head = b'--x\r\nContent-Disposition: form-data; name="archive"; filename="a.zip"\r\n\r\n'
    address = urlsplit(api.url)
    connection = socket.create_connection((address.hostname, address.port), timeout=60)
    connection.sendall(
        b"POST /v1/datasets HTTP/1.1\r\nHost: localhost\r\n"
        b"Content-Type: multipart/form-data; boundary=x\r\n"
        b"Content-Length: %d\r\n\r\n" % (len(head) + len(archive) + 9)
    )
    connection.sendall(head + archive[: len(archive) // 2])
    deadline = time.monotonic() + 60
    while not list(api.home.glob("datasets/.staging/*/archive")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return connection

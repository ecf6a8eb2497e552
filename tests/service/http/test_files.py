"""Files over HTTP: what a client has is not sent again, and a download is resumed."""

import io
import threading
import time
import zipfile
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import anyio
import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from contracts.jobs import Artifact
from contracts.settings import Settings
from models.store.downloads import _whole_zip, _zip_size, _zipped
from service.http.files import _RANGE, FileContent, file_response
from service.inference.fair_pool import CALLER, Caller
from service.openapi import document
from tests.service.parts import FakeServices

URL = "/v1/jobs/job_0123456789abcdef/artifacts/result.png"
CONTENT = bytes(range(256)) * 3000
SIZE = len(CONTENT)


@pytest.fixture
def artifact(fakes: FakeServices) -> None:
    job_id = URL.split("/")[3]
    fakes.files.store_artifact(job_id, "result.png", CONTENT)
    kept = Artifact(name="result.png", media_type="image/png", size=SIZE, url=URL)
    fakes.jobs.put(job_id, kind="dream", state="running", attempt=1, artifacts=[kept])


@pytest.mark.usefixtures("artifact")
def test_a_client_that_has_the_file_is_not_sent_it(
    client: httpx.Client, fakes: FakeServices
) -> None:
    first = client.get(URL)
    etag = first.headers["ETag"]
    assert (first.status_code, first.content) == (200, CONTENT)
    for sent in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        again = client.get(URL, headers={"If-None-Match": sent})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["ETag"] == etag
    assert client.get(URL, headers={"If-None-Match": '"other"'}).status_code == 200
    fakes.files.store_artifact(URL.split("/")[3], "result.png", CONTENT[::-1])
    replaced = client.get(URL, headers={"If-None-Match": etag})
    assert (replaced.status_code, replaced.content) == (200, CONTENT[::-1])


@pytest.mark.usefixtures("artifact")
@pytest.mark.parametrize(
    ("sent", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=5-9", 5, 9),
        ("bytes=700000-", 700_000, SIZE - 1),
        ("bytes=-10", SIZE - 10, SIZE - 1),
        (f"bytes=10-{SIZE * 2}", 10, SIZE - 1),
        (f"bytes=-{SIZE * 2}", 0, SIZE - 1),
    ],
)
def test_a_part_of_a_file(client: httpx.Client, sent: str, first: int, last: int) -> None:
    answer = client.get(URL, headers={"Range": sent})
    assert answer.status_code == 206
    assert answer.headers["Content-Range"] == f"bytes {first}-{last}/{SIZE}"
    assert answer.content == CONTENT[first : last + 1]
    assert int(answer.headers["Content-Length"]) == last + 1 - first


@pytest.mark.parametrize("sent", ["bytes={}x", "bytes{}x", "bytes=1{}x", "bytes=1-1{}x"])
def test_spaces_are_read_once(sent: str) -> None:
    began = time.thread_time()
    assert _RANGE.fullmatch(sent.format(" " * 100_000)) is None
    assert time.thread_time() - began < 1  # ten, if every division of the spaces were tried


@pytest.mark.usefixtures("artifact")
@pytest.mark.parametrize("sent", [f"bytes={SIZE}-", "bytes=-0"])
def test_bytes_that_there_are_not_are_416(client: httpx.Client, sent: str) -> None:
    answer = client.get(URL, headers={"Range": sent})
    assert (answer.status_code, answer.json()["status"]) == (416, 416)
    assert answer.headers["Content-Range"] == f"bytes */{SIZE}"


@pytest.mark.usefixtures("artifact")
@pytest.mark.parametrize(
    "headers",
    [
        {"Range": "bytes=0-1,4-5"},
        {"Range": "bytes=5-1"},
        {"Range": "lines=1-2"},
        {"Range": "bytes=-"},
        {"Range": "bytes=0-1", "If-Range": '"another version"'},
        {"Range": "bytes=0-1", "If-Range": "Sat, 29 Nov 2025 00:00:00 GMT"},
    ],
)
def test_what_is_no_single_part_is_the_whole(client: httpx.Client, headers: dict[str, str]) -> None:
    answer = client.get(URL, headers=headers)
    assert (answer.status_code, answer.content) == (200, CONTENT)
    assert answer.headers["Accept-Ranges"] == "bytes"


@pytest.mark.usefixtures("artifact")
def test_a_download_is_resumed_if_it_is_still_the_same(client: httpx.Client) -> None:
    etag = client.head(URL).headers["ETag"]
    rest = client.get(URL, headers={"Range": "bytes=1000-", "If-Range": etag})
    assert (rest.status_code, rest.content) == (206, CONTENT[1000:])


def test_a_zip_is_as_long_as_announced_and_has_parts(tmp_path: Path) -> None:
    (tmp_path / "variables").mkdir()
    files = {"saved_model.pb": 10, "variables/variables.index": 0, "variables/data-é": 3_000_000}
    for name, size in files.items():
        (tmp_path / name).write_bytes(bytes(size))
    whole = b"".join(_whole_zip(tmp_path, "a-1"))
    assert _zip_size([(f"a-1/{name}", size) for name, size in files.items()]) == len(whole)
    for offset in (0, 1, 50, 1_500_000, len(whole) - 1, len(whole)):
        assert b"".join(_zipped(tmp_path, "a-1", offset)) == whole[offset:]
    assert sorted(zipfile.ZipFile(io.BytesIO(whole)).namelist()) == sorted(
        f"a-1/{name}" for name in files
    )


def test_the_document_is_sent_once(client: httpx.Client) -> None:
    plain = client.get("/openapi.json", headers={"Accept-Encoding": "identity"})
    packed = client.get("/openapi.json", headers={"Accept-Encoding": "gzip"})
    assert plain.json() == packed.json()
    assert packed.headers["Content-Encoding"] == "gzip"
    assert "Content-Encoding" not in plain.headers
    assert int(packed.headers["Content-Length"]) < int(plain.headers["Content-Length"]) / 4
    for answer, coding in ((plain, "identity"), (packed, "gzip")):
        headers = {"If-None-Match": answer.headers["ETag"], "Accept-Encoding": coding}
        assert client.get("/openapi.json", headers=headers).status_code == 304


def test_the_ends_of_many_downloads_take_few_threads_in_turn() -> None:
    running, most, lock = 0, 0, threading.Lock()

    def read(start: int) -> Iterator[bytes]:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02)  # what precedes the last bytes is made and dropped
        with lock:
            running -= 1
        yield b"abc"[start - 97 :]

    async def last_bytes(client: str, parts: list[tuple[str, bytes]]) -> None:
        CALLER.set(Caller(client, 1))
        scope = {"type": "http", "method": "GET", "headers": [(b"range", b"bytes=98-")]}
        content = FileContent(100, '"e"', read, seeks=False)
        response = file_response(Request(scope), content, media_type="a/b", headers={})
        assert response.status_code == 206
        body = cast(AsyncIterator[bytes], cast(StreamingResponse, response).body_iterator)
        parts.append((client, b"".join([part async for part in body])))

    async def all_at_once() -> list[tuple[str, bytes]]:
        parts: list[tuple[str, bytes]] = []
        async with anyio.create_task_group() as group:
            for client in ["greedy"] * 12 + ["other"] * 2:
                group.start_soon(last_bytes, client, parts)
        return parts

    parts = anyio.run(all_at_once)
    assert [part for _, part in parts] == [b"bc"] * 14
    assert most == 2
    assert [client for client, _ in parts[:5]].count("other") == 2


def test_others_are_answered_while_the_document_is_built(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, answered = threading.Event(), threading.Event()

    def build(app: FastAPI, settings: Settings) -> dict[str, Any]:
        began.set()
        assert answered.wait(30)
        return {"servers": []}

    monkeypatch.setattr(document, "_document", build)
    with ThreadPoolExecutor() as threads:
        documents = [threads.submit(client.get, "/openapi.json") for _ in range(3)]
        assert began.wait(30)
        assert client.get("/healthz", timeout=10).status_code == 200
        answered.set()
        assert [answer.result().json() for answer in documents] == [{"servers": []}] * 3

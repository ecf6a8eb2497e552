"""`make costs`: what the most expensive request to each route costs the API process.

    python -m tests.reliability.request_costs [--only WORDS] [--all]

One event loop serves everybody, so a request that takes it a tenth of a second for nothing is one
with which a single client stops the service. Every route gets, from a client without a key and from
one with all scopes, payloads that fill one place of a request with something that parsers handle
badly. What they cost more than a plain request of the same route is counted in processor time,
so other programs hardly matter; whatever looks expensive is repeated, and the cheapest repetition
counts. Then every regular expression that the code compiles is tried with texts made for it.

The exit status is 1 if a request costs more than 10 ms and 20 ms for each 100 kB of its body, if
one fails with 500, or if an expression takes more than linear time.
"""

import argparse
import http.client
import os
import re
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
from fastapi import FastAPI
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from starlette.routing import Route

from contracts.keys import SCOPES
from contracts.settings import Settings
from service.app import create_app
from service.lifespan import open_services
from tests.flow.installation import ROOT
from tests.reliability.deployment import MODEL, Deployment, started
from tests.reliability.pattern_costs import slow_patterns
from tests.reliability.request_payloads import Operation, Payload, heads, operations

HEAD_MS = 10.0
BODY_MS = 20.0
BODY_BYTES = 100_000
_SUSPICIOUS_MS = 2.0  # above this, a request is repeated
_REPEATS = 3
_SETTLE_SECONDS = 0.005  # for what the process does after a response
_TIMEOUT_SECONDS = 60.0
# Of the heads, one in so many is sent to an operation if another of its kind got all of them.
_STRIDE = 40
_REFUSED_STRIDE = 200
_FILE_HEADERS = ("Accept-", "If-", "Range")  # which every route that answers with a file reads
_ROWS = 30
_MODELS = f"{MODEL},face_embedder"
_PLAIN = Payload("plain")
_FAULTS = frozenset({500, 501})


@dataclass(frozen=True, slots=True)
class Cost:
    """What a request cost.

    Attributes:
        who: Whose request it was.
        status: Of the response; 0 if there was none.
        ms: Milliseconds of processor time above those of the plain request.
        size: Bytes of the body.
    """

    operation: Operation
    who: str
    payload: str
    status: int
    ms: float
    size: int

    @property
    def allowed(self) -> float:
        return HEAD_MS + BODY_MS * self.size / BODY_BYTES

    @property
    def is_finding(self) -> bool:
        return self.ms > self.allowed or self.status in _FAULTS

    def line(self) -> str:
        """All of it, for the log."""
        request = f"{self.operation.method} {self.operation.template}, {self.payload}"
        return f"{self.ms:.1f} ms, {self.status}: {request}, {self.who}, {self.size} bytes"


class Client:
    """Sends requests to a process, one after the other, and reads its clock.

    Args:
        port: Where it listens.
        pid: Its id.
        key: Sent with each request; empty for none.
    """

    def __init__(self, port: int, pid: int, key: str) -> None:
        self.name = "key" if key else "no key"
        self._port = port
        self._clock = (~pid << 3) | 2  # that of the processor time of a process (Linux)
        self._key = key
        self._socket: socket.socket | None = None
        self.statuses = Counter[int]()

    def cost(self, operation: Operation, payload: Payload, *, settle: bool) -> tuple[int, float]:
        """The status, and the milliseconds of processor time.

        Args:
            operation: Where to send it.
            payload: What to send.
            settle: Whether to count what the process does after the response, too.
        """
        request = self._request(operation, payload)
        if settle:
            time.sleep(_SETTLE_SECONDS)
        began = time.clock_gettime(self._clock)
        status = self._send(operation.method, request)
        self.statuses[status] += 1
        if settle:
            time.sleep(_SETTLE_SECONDS)
        return status, (time.clock_gettime(self._clock) - began) * 1000

    def least_cost(self, operation: Operation, payload: Payload, repeats: int) -> tuple[int, float]:
        """The last status, and the least of several costs."""
        costs = [self.cost(operation, payload, settle=True) for _ in range(repeats)]
        return costs[-1][0], min(ms for _, ms in costs)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket = None

    def _request(self, operation: Operation, payload: Payload) -> bytes:
        headers = [("Host", f"127.0.0.1:{self._port}")]
        if self._key:
            headers.append(("Authorization", f"Bearer {self._key}"))
        body = operation.body if payload.body is None else payload.body
        if operation.content_type:
            headers.append(("Content-Type", operation.content_type))
        if payload.is_chunked:
            headers.append(("Transfer-Encoding", "chunked"))
        elif body or operation.method in {"POST", "PUT", "PATCH"}:
            headers.append(("Content-Length", str(len(body))))
        own = {name for name, _ in payload.headers}
        kept = [item for item in headers if item[0] not in own]
        lines = "".join(f"{name}: {value}\r\n" for name, value in (*kept, *payload.headers))
        target = operation.path.rstrip("/") if payload.suffix[:1] == "/" else operation.path
        head = f"{operation.method} {target}{payload.suffix} HTTP/1.1\r\n{lines}\r\n"
        return head.encode("latin-1") + body

    def _send(self, method: str, request: bytes) -> int:
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self._port), _TIMEOUT_SECONDS)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        response = http.client.HTTPResponse(self._socket, method=method)
        try:
            with suppress(ConnectionError):  # a refusal may come before the body is sent
                self._socket.sendall(request)
            response.begin()
            if response.getheader("Content-Type", "").startswith("text/event-stream"):
                self.close()  # it may never end
                return response.status
            response.read()
            if response.will_close:
                self.close()
        except (OSError, http.client.HTTPException):
            self.close()
            return 0
        else:
            return response.status
        finally:
            response.close()


def measure(client: Client, operation: Operation, payloads: Iterable[Payload]) -> Iterator[Cost]:
    """The costs of those payloads that look expensive."""
    plain = client.least_cost(operation, _PLAIN, 5)[1]
    last = repeated = None
    for payload in payloads:
        status, ms = client.cost(operation, payload, settle=False)
        if ms - plain > _SUSPICIOUS_MS or status in _FAULTS:
            # What a process does after a response is counted with the next request.
            for one in (last, payload):
                if one is not None and one != repeated:
                    repeated = one
                    status, ms = client.least_cost(operation, one, _REPEATS)
                    size = 0 if one.body is None else len(one.body)
                    yield Cost(operation, client.name, one.name, status, ms - plain, size)
        last = payload


def _payloads(
    found: list[Operation], number: int, *, has_key: bool, everything: bool
) -> Iterator[Payload]:
    """What is sent to one operation: all heads, or its share if there is another of its kind."""
    operation = found[number]
    if has_key:
        yield from operation.bodies()
    is_first = has_key and all(other.kind != operation.kind for other in found[:number])
    stride = _REFUSED_STRIDE if operation.is_refused else _STRIDE
    for count, payload in enumerate(heads()):
        is_read = operation.is_file and payload.name.startswith(_FILE_HEADERS)
        if everything or is_first or is_read or count % stride == number % stride:
            yield payload


def all_operations(app: FastAPI, existing: dict[str, str]) -> list[Operation]:
    """What the application answers, and for each path what it refuses.

    Args:
        app: The application.
        existing: Paths by their templates.
    """
    hidden = [
        (method, route.path)
        for route in app.routes
        if isinstance(route, Route)
        for method in sorted(route.methods or {"GET"})
    ]
    hidden.append(("GET", "/docs/assets/swagger-ui.css"))
    found = operations(app.openapi(), hidden, existing)
    found.sort(key=_deletes)  # last, as they may succeed
    paths = {operation.template: operation.path for operation in reversed(found)}
    accepted = {(operation.method, operation.template) for operation in found}
    for template, path in [*paths.items(), ("/v1/none", "/v1/none"), ("/none", "/none")]:
        for method in ("OPTIONS", "HEAD", "PATCH", "NONE"):
            if (method, template) not in accepted:
                found.append(Operation(method, path, template, kind=(method,), is_refused=True))
    return sorted(found, key=_deletes)


def _deletes(operation: Operation) -> bool:
    return operation.method == "DELETE"


def table(costs: Iterable[Cost]) -> Table:
    """The most expensive requests."""
    result = Table(title="Processor time above that of a plain request")
    for heading in ("request", "from", "payload", "status", "ms", "allowed", "kB"):
        numeric = heading in {"status", "ms", "allowed", "kB"}
        result.add_column(heading, justify="right" if numeric else "left", no_wrap=numeric)
    for cost in sorted(costs, key=lambda cost: -cost.ms)[:_ROWS]:
        result.add_row(
            escape(f"{cost.operation.method} {cost.operation.template}"),
            cost.who,
            escape(cost.payload),
            str(cost.status),
            f"[red]{cost.ms:.1f}[/]" if cost.is_finding else f"{cost.ms:.1f}",
            f"{cost.allowed:.0f}",
            f"{cost.size / 1000:.0f}",
        )
    return result


def _create_objects(client: httpx.Client, image: Path) -> dict[str, str]:
    """A subject, a dataset and a job; what names them and files, by templates and parameters."""
    subject = client.post("/v1/faces/subjects", json={"name": "a"}).json()["id"]
    dataset = client.post("/v1/datasets", json={"name": "a"}).json()["id"]
    folder = f"/v1/datasets/{dataset}"
    client.post(
        f"{folder}/images",
        params={"label": "a"},
        content=image.read_bytes(),
        headers={"Content-Type": "image/png"},
    ).raise_for_status()
    file = client.get(f"{folder}/files").json()["items"][0]["id"]
    job = client.post("/v1/filters", json={"layer": "conv1"}).json()
    until = time.monotonic() + _TIMEOUT_SECONDS
    while not job["artifacts"] and time.monotonic() < until:
        time.sleep(0.5)
        job = client.get(f"/v1/jobs/{job['id']}").json()
    asset = re.search(r'_console/[^/"]+/[^"]+\.js', client.get("/").text)
    return {
        "{subject_id}": subject,
        "{dataset_id}": dataset,
        "{file_id}": file,
        "{job_id}": job["id"],
        "/v1/jobs/{job_id}/artifacts/{name}": job["artifacts"][0]["url"],
        "/_console/{digest}/{path:path}": f"/{asset[0]}" if asset else "/_console/a/a.js",
        "/_console/samples/{name}": f"/_console/samples/{image.name}",
    }


def run(fetched: Path, only: str, *, everything: bool) -> Iterator[Cost]:
    """Measure a new deployment."""
    with (
        tempfile.TemporaryDirectory(prefix="opsin-costs-") as folder,
        started(
            Deployment(Path(folder), fetched, {"OPSIN_MODELS": _MODELS}, store=fetched / "store")
        ) as deployment,
        httpx.Client(base_url=deployment.url, timeout=60) as http_client,
    ):
        existing = _create_objects(http_client, fetched / "samples" / "cat.png")
        made = http_client.post("/v1/keys", json={"name": "costs", "scopes": list(SCOPES)})
        found = all_operations(create_app(Settings(_env_file=None), open_services), existing)
        pid = deployment.wait_for("api").pid
        for key in (made.json()["key"], ""):
            client = Client(deployment.port, pid, key)
            for number, operation in enumerate(found):
                if only in f"{operation.method} {operation.template}":
                    payloads = _payloads(found, number, has_key=bool(key), everything=everything)
                    yield from measure(client, operation, payloads)
            client.close()


def main() -> int:
    """Measure all; 1 if something costs too much."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="Only methods and paths that contain this.")
    parser.add_argument("--all", action="store_true", help="Every head to every route: an hour.")
    arguments = parser.parse_args()
    # On SIGTERM, it still stops everything it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    fetched = Path(os.environ.get("OPSIN_HOME", ROOT / "var"))
    console = Console(width=150)
    patterns = [] if arguments.only else slow_patterns()
    for pattern in patterns:
        console.print(pattern, markup=False)
    costs = []
    try:
        for cost in run(fetched, arguments.only, everything=arguments.all):
            costs.append(cost)
            if cost.is_finding:
                console.print(cost.line(), markup=False)
    finally:
        console.print(table(costs))
    return 1 if patterns or any(cost.is_finding for cost in costs) else 0


if __name__ == "__main__":
    sys.exit(main())

"""200 requests of one kind at the same moment, for every kind: what does everybody else notice?

    opsin up                              # in another terminal
    python -m benchmarks.serving.simultaneous     # --url, --key, --count 200, --only trainings

Most kinds are requests that succeed if they are alone; how many do depends on the limits of what
waits. Some, such as evaluations of images whose classes the model does not have, are refused by
their checks. The jobs that came into being are canceled before the next kind.

All but the last byte of each request is sent first, and then the last bytes at once: requests that
arrive one after the other never meet in a lock or a pool of threads. Meanwhile `GET /v1/jobs` is
asked again and again. Its slowest answer may take a second; the exit status is 1 if it takes longer
or if a request gets no answer or 500.
"""

import argparse
import base64
import http.client
import io
import json
import math
import secrets
import socket
import sys
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx
from PIL import Image
from rich.console import Console
from rich.table import Table

MAX_JOBS_SECONDS = 1.0
_ANSWER_SECONDS = 120.0
_PROBE_PAUSE = 0.02
_BOUNDARY = "----simultaneous"


@dataclass(frozen=True, slots=True)
class Post:
    """One kind of request.

    Attributes:
        name: For the table.
        path: Where to.
        body: Makes the body of each request.
        content_type: Of the body.
        headers: Further headers.
    """

    name: str
    path: str
    body: Callable[[], bytes]
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(slots=True)
class Outcome:
    """What became of one kind.

    Attributes:
        statuses: How many requests got each status; 0 is no answer.
        slowest: Seconds of the slowest of them.
        jobs: Seconds of each `GET /v1/jobs` meanwhile.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    slowest: float = 0.0
    jobs: list[float] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        return max(self.jobs) <= MAX_JOBS_SECONDS and not (self.statuses[0] or self.statuses[500])


class Crowd:
    """Sends the requests.

    Args:
        url: URL of the service.
        key: A key with all scopes; empty if none is needed.
        count: Requests at the same moment.
    """

    def __init__(self, url: str, key: str, count: int) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._headers = {"X-API-Key": key} if key else {}
        self._count = count
        self.client = httpx.Client(base_url=url, headers=self._headers, timeout=_ANSWER_SECONDS)

    def send(self, post: Post) -> Outcome:
        """All requests of one kind, whose last bytes leave together."""
        outcome, lock = Outcome(), threading.Lock()
        barrier = threading.Barrier(self._count)

        def one() -> None:
            status, seconds = self._one(self._request(post), barrier)
            with lock:
                outcome.statuses[status] += 1
                outcome.slowest = max(outcome.slowest, seconds)

        threads = [threading.Thread(target=one, daemon=True) for _ in range(self._count)]
        with self._probing(outcome):
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        return outcome

    def cancel_jobs(self) -> None:
        """Cancel all jobs that have not ended."""
        for state in ("queued", "running"):
            jobs = self.client.get(f"/v1/jobs?state={state}&limit=200").raise_for_status()
            for job in jobs.json()["items"]:
                self.client.post(f"/v1/jobs/{job['id']}/cancel")

    def _request(self, post: Post) -> bytes:
        body = post.body()
        lines = [
            f"POST {post.path} HTTP/1.1",
            f"Host: {self._address[0]}",
            f"Content-Type: {post.content_type}",
            f"Content-Length: {len(body)}",
            *(f"{name}: {value}" for name, value in (*post.headers, *self._headers.items())),
        ]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body

    def _one(self, request: bytes, barrier: threading.Barrier) -> tuple[int, float]:
        began = time.monotonic()
        try:
            with socket.create_connection(self._address, timeout=_ANSWER_SECONDS) as connection:
                connection.sendall(request[:-1])
                barrier.wait(_ANSWER_SECONDS)
                began = time.monotonic()
                connection.sendall(request[-1:])
                answer = http.client.HTTPResponse(connection, method="POST")
                answer.begin()
                answer.read()
            return answer.status, time.monotonic() - began
        except (OSError, http.client.HTTPException, threading.BrokenBarrierError):
            return 0, time.monotonic() - began

    @contextmanager
    def _probing(self, outcome: Outcome) -> Iterator[None]:
        """Ask for the jobs again and again while the block runs."""
        stop = threading.Event()

        def probe() -> None:
            while True:
                began = time.monotonic()
                try:
                    self.client.get("/v1/jobs?limit=5").raise_for_status()
                    seconds = time.monotonic() - began
                except httpx.HTTPError:
                    seconds = _ANSWER_SECONDS
                outcome.jobs.append(seconds)
                if stop.wait(_PROBE_PAUSE):
                    return

        thread = threading.Thread(target=probe)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def kinds(client: httpx.Client, model: str) -> list[Post]:
    """Every kind of request, on records that are made for them."""
    archive: dict[str, tuple[str | None, bytes | str]] = {
        "archive": ("images.zip", _zip(24)),
        "name": (None, _word()),
    }
    dataset = client.post("/v1/datasets", files=archive).json()["id"]
    subject = client.post("/v1/faces/subjects", json={"name": _word()}).json()["id"]
    version = client.get(f"/v1/models/{model}").json()["aliases"]["champion"]
    posts = [
        *_image_posts(model, dataset),
        *_face_posts(subject, dataset),
        *_record_posts(model, version, dataset),
        *_picture_posts(client, model),
    ]
    if "X-API-Key" in client.headers:  # otherwise the first key would close an open service
        key = client.post("/v1/keys", json={"name": _word(), "scopes": ["infer"]})
        rotation = f"/v1/keys/{key.json()['id']}/rotate"
        posts.append(Post("keys", "/v1/keys", _json({"name": "k", "scopes": ["infer"]})))
        posts.append(Post("rotations", rotation, _json({"grace_seconds": 60})))
    return posts


def _image_posts(model: str, dataset: str) -> Iterator[Post]:
    png = _png()
    for name in ("classify", "embed", "heatmap", "activations"):
        yield Post(name, f"/v1/{name}?model={model}", lambda: png, "image/png")
    path, later = f"/v1/classify?model={model}", (("Prefer", "respond-async"),)
    yield Post("classify as a job", path, lambda: png, "image/png", later)
    path = f"/v1/datasets/{dataset}/images?label=a"
    yield Post("images of a dataset", path, lambda: png, "image/png")
    archive = _form(("name", b"zip"), ("archive", _zip(4)))
    yield Post("archives", "/v1/datasets", archive, _FORM)
    encoded = base64.b64encode(png).decode()
    yield Post("predict", f"/v1/models/{model}:predict", _json({"instances": [{"b64": encoded}]}))
    shape = [1, 224, 224, 3]
    levels = {"name": "image", "shape": shape, "datatype": "UINT8", "data": [99] * math.prod(shape)}
    yield Post("infer", f"/v2/models/{model}/infer", _json({"inputs": [levels]}))


def _face_posts(subject: str, dataset: str) -> Iterator[Post]:
    png = _png()
    image = _form(("image", png))
    yield Post("detect", "/v1/faces/detect", image, _FORM)
    yield Post("identify", "/v1/faces/identify", image, _FORM)
    yield Post("verify", "/v1/faces/verify", _form(("image", png), ("image", png)), _FORM)
    login = _form(("subject_id", subject.encode()), ("image", png))
    yield Post("login", "/v1/faces/login", login, _FORM)
    yield Post("enrollments", f"/v1/faces/subjects/{subject}/enrollments", image, _FORM)
    asked = {"purpose": "login", "subject_id": subject, "device_id": "d"}
    yield Post("challenges", "/v1/faces/challenges", _json(asked))
    yield Post("calibrations", "/v1/faces/calibrations", _json({"dataset_id": dataset}))
    yield Post("subjects", "/v1/faces/subjects", lambda: json.dumps({"name": _word()}).encode())


def _picture_posts(client: httpx.Client, model: str) -> Iterator[Post]:
    png = _png()
    layers = client.get(f"/v1/models/{model}/layers").raise_for_status().json()["items"]
    layer = next(layer["name"] for layer in layers if layer["explainable"])
    filters = {"model": model, "layer": layer, "filters": [0]}
    yield Post("filters", "/v1/filters", _json(filters))
    yield Post("dreams", "/v1/dreams", _form(("image", png)), _FORM)
    style = _form(("content", png), ("style", png))
    yield Post("style transfers", "/v1/style_transfers", style, _FORM)


def _record_posts(model: str, version: int, dataset: str) -> Iterator[Post]:
    training = {"dataset_id": dataset, "model": "simultaneous", "network": model}
    yield Post("trainings", "/v1/trainings", _json(training))
    once = (("Idempotency-Key", _word()),)
    yield Post("trainings with one key", "/v1/trainings", _json(training), headers=once)
    sweep = {"training": training, "grid": {"learning_rate.head": [0.001, 0.01]}}
    yield Post("sweeps", "/v1/sweeps", _json(sweep))
    evaluate = f"/v1/models/{model}/versions/{version}/evaluations"
    yield Post("evaluations", evaluate, _json({"dataset_id": dataset}))
    yield Post("datasets", "/v1/datasets", lambda: json.dumps({"name": _word()}).encode())
    alias = {"alias": "simultaneous", "version": version}
    yield Post("aliases", f"/v1/models/{model}/aliases", _json(alias))
    quantize = f"/v1/models/{model}/versions/{version}/quantize"
    yield Post("quantizations", quantize, _json({"dataset_id": dataset}))
    yield Post("cancellations", "/v1/jobs/job_000000000000/cancel", _json({}))


_FORM = f"multipart/form-data; boundary={_BOUNDARY}"


def _json(value: object) -> Callable[[], bytes]:
    body = json.dumps(value).encode()
    return lambda: body


def _form(*fields: tuple[str, bytes]) -> Callable[[], bytes]:
    body = b""
    for name, value in fields:
        file = f'; filename="{name}"' if name in {"image", "archive", "content", "style"} else ""
        head = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
        body += head.encode() + value + b"\r\n"
    body += f"--{_BOUNDARY}--\r\n".encode()
    return lambda: body


def _word() -> str:
    return f"simultaneous-{secrets.token_hex(4)}"


def _png() -> bytes:
    buffer = io.BytesIO()
    Image.radial_gradient("L").convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


def _zip(count: int) -> bytes:
    """Images of two classes, no two alike."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number in range(count):
            image = io.BytesIO()
            gradient = Image.radial_gradient("L") if number % 2 else Image.linear_gradient("L")
            gradient.rotate(7 * number).convert("RGB").save(image, "PNG")
            archive.writestr(f"{'ab'[number % 2]}/{number}.png", image.getvalue())
    return buffer.getvalue()


def main() -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--key", default="")
    parser.add_argument("--model", default="efficientnet_lite0")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--only", nargs="*", default=[])
    arguments = parser.parse_args()
    crowd = Crowd(arguments.url, arguments.key, arguments.count)
    console = Console()
    table = Table("requests", "statuses", "slowest, s", "slowest GET /v1/jobs, s")
    good = True
    for post in kinds(crowd.client, arguments.model):
        if arguments.only and post.name not in arguments.only:
            continue
        outcome = crowd.send(post)
        crowd.cancel_jobs()
        good &= outcome.is_good
        statuses = ", ".join(f"{count} of {status}" for status, count in outcome.statuses.items())
        table.add_row(post.name, statuses, f"{outcome.slowest:.2f}", f"{max(outcome.jobs):.2f}")
        console.print(f"{post.name}: {statuses}, {max(outcome.jobs):.2f} s")
    console.print(table)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

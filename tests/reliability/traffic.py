"""A steady load of requests and jobs, and a report of how each of them ended.

Requests are sent at their own rate, answered or not (an open loop), so a service that stalls cannot
slow down the load. A client behaves sensibly: if a connection was refused or cut, it tries again
until its time is up. A request without any answer after that is *lost*.
"""

import asyncio
import itertools
import random
import time
import uuid
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.models.datasets.packing import tree, zipped

FINISHED = {"succeeded", "failed", "cancelled"}
TIMEOUT_MS = 10_000
# How late an answer may be, on a busy machine, before it counts as missing.
_LATE_SECONDS = 20.0
# Pauses between two tries. They grow, so that a service that has just recovered is not flooded by
# the clients that waited for it.
_RETRY_SECONDS = (0.25, 0.5, 1.0, 2.0, 4.0)
_CONNECT_SECONDS = 90.0  # while connections are refused; an open connection has the deadline
_JOBS_END_SECONDS = 300.0
_DATA_SET_EVERY = 6  # jobs: each is a process of its own, and takes seconds


@dataclass(frozen=True, slots=True)
class RequestOutcome:
    """How one request ended.

    Attributes:
        began: `time.monotonic()` when it was first sent.
        ended: When its answer arrived, or when the client gave up.
        code: ``200``, or a status with the problem's code; ``lost`` for no answer at all.
        is_correct: Whether the answer is the same as without a fault.
    """

    began: float
    ended: float
    code: str
    is_correct: bool = True


@dataclass(slots=True)
class TrafficReport:
    """How all requests and jobs ended.

    Attributes:
        cut: `time.monotonic()` of each connection that was refused or cut, and tried again.
        refused_jobs: Jobs that were not accepted, by code.
        jobs: How each accepted job ended, by id; ``lost`` for one that did not.
    """

    requests: list[RequestOutcome] = field(default_factory=list)
    cut: list[float] = field(default_factory=list)
    refused_jobs: Counter[str] = field(default_factory=Counter)
    jobs: dict[str, str] = field(default_factory=dict)

    def codes(self) -> Counter[str]:
        """How many requests failed, by code."""
        return Counter(request.code for request in self.requests if request.code != "200")

    def recovered_after(self, moment: float) -> float:
        """Seconds from that moment to the last request that failed or was cut; 0 for none."""
        failed = [request.ended for request in self.requests if request.code != "200"]
        return max(0.0, max([*failed, *self.cut], default=moment) - moment)


class Traffic:
    """The load on one installation, from `start` to `finish`.

    Args:
        url: The API's.
        images: Images by name, sent in turn.
        rate: Requests per second.
        job_every: Seconds between two jobs, most of them inference jobs, some dataset imports.
        datasets: Whether datasets are sent; they need a job worker.
        idle_seconds: How long an idle connection is kept.
    """

    def __init__(
        self,
        url: str,
        images: Mapping[str, bytes],
        *,
        rate: float,
        job_every: float,
        datasets: bool = True,
        idle_seconds: float = 5.0,
    ) -> None:
        self.report = TrafficReport()
        self._images = itertools.cycle(images.items())
        self._expected: dict[str, str] = {}
        self._rate = rate
        self._job_every = job_every
        self._datasets = datasets
        self._finished = asyncio.Event()
        self._in_progress: set[asyncio.Task[None]] = set()
        self._feeds: list[asyncio.Task[None]] = []
        limits = httpx.Limits(
            max_connections=500, max_keepalive_connections=50, keepalive_expiry=idle_seconds
        )
        timeout = httpx.Timeout(TIMEOUT_MS / 1000 + _LATE_SECONDS)
        self._client = httpx.AsyncClient(base_url=url, limits=limits, timeout=timeout)

    async def start(self, distinct: int) -> None:
        """Record the correct answers for the first `distinct` images, then begin."""
        for name, image in itertools.islice(self._images, distinct):
            answer = await self._client.post("/v1/classify", content=image, headers=_headers())
            answer.raise_for_status()
            self._expected[name] = _top(answer.json())
        self._feeds = [
            asyncio.create_task(self._send_periodically(1 / self._rate, self._request)),
            asyncio.create_task(self._send_periodically(self._job_every, self._job)),
        ]

    async def finish(self) -> TrafficReport:
        """Stop sending, and wait for all requests and jobs to end."""
        self._finished.set()
        await asyncio.gather(*self._feeds)
        await asyncio.gather(*self._in_progress)
        until = time.monotonic() + _JOBS_END_SECONDS
        for job_id in self.report.jobs:
            self.report.jobs[job_id] = await self._final_state(job_id, until)
        await self._client.aclose()
        return self.report

    async def serves(self) -> bool:
        """Whether one request is answered now; it is not counted."""
        with suppress(httpx.TransportError):
            image = next(self._images)[1]
            answer = await self._client.post("/v1/classify", content=image, headers=_headers())
            return answer.status_code == 200
        return False

    async def _send_periodically(self, every: float, send: Any) -> None:
        jitter = random.Random(8)
        number = itertools.count()
        due = time.monotonic()
        while not self._finished.is_set():
            task = asyncio.create_task(send(next(number)))
            self._in_progress.add(task)
            task.add_done_callback(self._in_progress.discard)
            due += every * jitter.uniform(0.5, 1.5)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._finished.wait(), max(0.0, due - time.monotonic()))

    async def _request(self, _number: int) -> None:
        name, image = next(self._images)
        began = time.monotonic()
        answer = await self._send_with_retries("/v1/classify", content=image, headers=_headers())
        code, is_correct = _code(answer), True
        if answer is not None and code == "200":
            is_correct = _top(answer.json()) == self._expected[name]
        self.report.requests.append(RequestOutcome(began, time.monotonic(), code, is_correct))

    async def _job(self, number: int) -> None:
        """Submit a job; the key makes it safe to send it twice."""
        key = {"Idempotency-Key": uuid.uuid4().hex}
        if number % _DATA_SET_EVERY or not self._datasets:
            head = _headers() | key | {"Prefer": "respond-async"}
            sent = self._send_with_retries(
                "/v1/classify", content=next(self._images)[1], headers=head
            )
        else:
            archive = zipped(tree({"cat": 10, "dog": 10}, first=1000 * number))
            files = {"archive": ("a.zip", archive)}
            sent = self._send_with_retries("/v1/datasets", files=files, headers=key)
        answer = await sent
        if answer is not None and answer.status_code == 202:
            self.report.jobs[answer.json()["id"]] = "lost"
        else:
            self.report.refused_jobs[_code(answer)] += 1

    async def _send_with_retries(self, path: str, **arguments: Any) -> httpx.Response | None:
        """The answer to the first or a later try; None if there was none."""
        until = time.monotonic() + _CONNECT_SECONDS
        pauses = itertools.chain(_RETRY_SECONDS, itertools.repeat(_RETRY_SECONDS[-1]))
        while time.monotonic() < until:
            try:
                return await self._client.post(path, **arguments)
            except httpx.TimeoutException:
                return None
            except httpx.TransportError:
                self.report.cut.append(time.monotonic())
                await asyncio.sleep(next(pauses) * random.uniform(0.5, 1.5))
        return None

    async def _final_state(self, job_id: str, until: float) -> str:
        """How a job ended: its state, with the code of a failure; ``lost`` if it did not."""
        while time.monotonic() < until:
            with suppress(httpx.TransportError):
                answer = await self._client.get(f"/v1/jobs/{job_id}")
                if answer.status_code == 404:
                    return "lost"
                if answer.status_code == 200 and answer.json()["state"] in FINISHED:
                    job = answer.json()
                    code = f" {job['error']['code']}" if job["error"] else ""
                    return f"{job['state']}{code}"
            await asyncio.sleep(0.2)
        return "lost"


def _headers(timeout_ms: int = TIMEOUT_MS) -> dict[str, str]:
    return {"Content-Type": "image/png", "X-Timeout-Ms": str(timeout_ms)}


def _top(body: dict[str, Any]) -> str:
    """The most probable label."""
    return str(body["results"][0]["predictions"][0]["label"])


def _code(answer: httpx.Response | None) -> str:
    if answer is None:
        return "lost"
    if answer.is_success:
        return str(answer.status_code)
    try:
        return f"{answer.status_code} {answer.json()['code']}"
    except (ValueError, KeyError):
        return f"{answer.status_code} (no problem)"

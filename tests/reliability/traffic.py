"""A steady load of requests and jobs, and the account of what became of each one.

Requests come when they come, answered or not (an open loop), so a service that stalls cannot slow
down what is asked of it. A client here does what any sane one does: where the connection was
refused or cut it asks again until its time is up. What then has no answer at all is *lost*.
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
# What an answer may be late by, on a machine that does much else, before it counts as none.
_LATE_SECONDS = 20.0
# Between two tries: the first is soon, the later ones are further apart, so that a service that
# comes back is not trampled by those who waited for it.
_AGAIN_SECONDS = (0.25, 0.5, 1.0, 2.0, 4.0)
_PATIENCE_SECONDS = 90.0  # with a door that is shut; behind an open one there is the deadline
_JOBS_END_SECONDS = 300.0
_DATA_SET_EVERY = 6  # jobs: each is a process of its own, and takes seconds


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request.

    Attributes:
        began: `time.monotonic()` when it was first sent.
        ended: When its answer was there, or when it was given up.
        code: ``200``, or a status with the problem's code; ``lost`` for no answer at all.
        is_right: Whether an answer says what it said in calm times.
    """

    began: float
    ended: float
    code: str
    is_right: bool = True


@dataclass(slots=True)
class Account:
    """What was sent and what became of it.

    Attributes:
        requests: Every one.
        cut: `time.monotonic()` of each connection refused or cut, which was then tried again.
        refused_jobs: Jobs that were not accepted, by code.
        jobs: How each accepted job ended, by id; ``lost`` for one that did not.
    """

    requests: list[Outcome] = field(default_factory=list)
    cut: list[float] = field(default_factory=list)
    refused_jobs: Counter[str] = field(default_factory=Counter)
    jobs: dict[str, str] = field(default_factory=dict)

    def codes(self) -> Counter[str]:
        """How many requests failed, by code."""
        return Counter(one.code for one in self.requests if one.code != "200")

    def recovered_after(self, moment: float) -> float:
        """Seconds from that moment to the last request that failed or was cut; 0 for none."""
        failed = [one.ended for one in self.requests if one.code != "200"]
        return max(0.0, max([*failed, *self.cut], default=moment) - moment)


class Traffic:
    """The load on one installation, from `start` to `finish`.

    Args:
        url: The API's.
        pictures: Pictures by name, sent in turn.
        rate: Requests a second.
        job_every: Seconds between two jobs; in turn images for a network, and a dataset.
        datasets: Whether there is somebody who takes in datasets.
        idle_seconds: How long a connection is kept that nobody uses.
    """

    def __init__(
        self,
        url: str,
        pictures: Mapping[str, bytes],
        *,
        rate: float,
        job_every: float,
        datasets: bool = True,
        idle_seconds: float = 5.0,
    ) -> None:
        self.account = Account()
        self._pictures = itertools.cycle(pictures.items())
        self._expected: dict[str, str] = {}
        self._rate = rate
        self._job_every = job_every
        self._datasets = datasets
        self._over = asyncio.Event()
        self._under_way: set[asyncio.Task[None]] = set()
        self._feeds: list[asyncio.Task[None]] = []
        limits = httpx.Limits(
            max_connections=500, max_keepalive_connections=50, keepalive_expiry=idle_seconds
        )
        bound = httpx.Timeout(TIMEOUT_MS / 1000 + _LATE_SECONDS)
        self._client = httpx.AsyncClient(base_url=url, limits=limits, timeout=bound)

    async def start(self, distinct: int) -> None:
        """Learn the right answers of the first `distinct` pictures, then begin."""
        for name, picture in itertools.islice(self._pictures, distinct):
            answer = await self._client.post("/v1/classify", content=picture, headers=_head())
            answer.raise_for_status()
            self._expected[name] = _top(answer.json())
        self._feeds = [
            asyncio.create_task(self._feed(1 / self._rate, self._request)),
            asyncio.create_task(self._feed(self._job_every, self._job)),
        ]

    async def finish(self) -> Account:
        """Send no more, wait for what is under way, and for every job to end."""
        self._over.set()
        await asyncio.gather(*self._feeds)
        await asyncio.gather(*self._under_way)
        until = time.monotonic() + _JOBS_END_SECONDS
        for job_id in self.account.jobs:
            self.account.jobs[job_id] = await self._end_of(job_id, until)
        await self._client.aclose()
        return self.account

    async def serves(self) -> bool:
        """Whether one request is answered now; it is not counted."""
        with suppress(httpx.TransportError):
            picture = next(self._pictures)[1]
            answer = await self._client.post("/v1/classify", content=picture, headers=_head())
            return answer.status_code == 200
        return False

    async def _feed(self, every: float, send: Any) -> None:
        chance = random.Random(8)
        number = itertools.count()
        due = time.monotonic()
        while not self._over.is_set():
            task = asyncio.create_task(send(next(number)))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
            due += every * chance.uniform(0.5, 1.5)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), max(0.0, due - time.monotonic()))

    async def _request(self, _number: int) -> None:
        name, picture = next(self._pictures)
        began = time.monotonic()
        answer = await self._sent("/v1/classify", content=picture, headers=_head())
        code, is_right = _code(answer), True
        if answer is not None and code == "200":
            is_right = _top(answer.json()) == self._expected[name]
        self.account.requests.append(Outcome(began, time.monotonic(), code, is_right))

    async def _job(self, number: int) -> None:
        """Submit one; the key makes it safe to ask twice."""
        key = {"Idempotency-Key": uuid.uuid4().hex}
        if number % _DATA_SET_EVERY or not self._datasets:
            head = _head() | key | {"Prefer": "respond-async"}
            sent = self._sent("/v1/classify", content=next(self._pictures)[1], headers=head)
        else:
            archive = zipped(tree({"cat": 10, "dog": 10}, first=1000 * number))
            files = {"archive": ("a.zip", archive)}
            sent = self._sent("/v1/datasets", files=files, headers=key)
        answer = await sent
        if answer is not None and answer.status_code == 202:
            self.account.jobs[answer.json()["id"]] = "lost"
        else:
            self.account.refused_jobs[_code(answer)] += 1

    async def _sent(self, path: str, **said: Any) -> httpx.Response | None:
        """The answer, of the first try or a later one; None if there never was one."""
        until = time.monotonic() + _PATIENCE_SECONDS
        pauses = itertools.chain(_AGAIN_SECONDS, itertools.repeat(_AGAIN_SECONDS[-1]))
        while time.monotonic() < until:
            try:
                return await self._client.post(path, **said)
            except httpx.TimeoutException:
                return None
            except httpx.TransportError:
                self.account.cut.append(time.monotonic())
                await asyncio.sleep(next(pauses) * random.uniform(0.5, 1.5))
        return None

    async def _end_of(self, job_id: str, until: float) -> str:
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


def _head(timeout_ms: int = TIMEOUT_MS) -> dict[str, str]:
    return {"Content-Type": "image/png", "X-Timeout-Ms": str(timeout_ms)}


def _top(body: dict[str, Any]) -> str:
    """The label that a network holds most probable."""
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

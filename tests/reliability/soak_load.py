"""The load of `make soak`: very many requests of all kinds, in turn, from a few clients."""

import asyncio
from collections import Counter
from collections.abc import Sequence

from benchmarks.load.connection import Connection, ConnectionLostError, connect, request_of

DEADLINE_SECONDS = 120
"""Generous, so that no request fails on a busy machine."""

_TIMEOUT_SECONDS = DEADLINE_SECONDS + 30.0
_CLASSIFY = "/v1/classify"
# Shares of a hundred requests. The first heatmap comes from the SavedModel, the second needs Keras.
MIX = (
    (90, _CLASSIFY, "image"),
    (3, "/v1/heatmap", "image"),
    (1, "/v1/heatmap?method=layer_cam", "image"),
    (3, _CLASSIFY, "not an image"),
    (1, "/v1/classify?top_k=nonsense", "image"),
    (1, "/v1/classify?model=nobody", "image"),
    (1, _CLASSIFY, "hangs up"),
)
WARM_REQUESTS = 200
"""Sent before any is counted: each kind is sent twice, so everything it needs is loaded."""

EXPECTED = {"200", "404", "422", "hung up"}
"""How the requests of the mix end; a 429 or 503 would mean that the load was not steady."""


class Load:
    """Sends requests of the mix from clients that each wait for their answer.

    Args:
        port: The API's port.
        images: JPEG files.
        requests: How many are sent and counted.

    Attributes:
        done: How many of them have ended.
        outcomes: How many ended in which way.
        unexpected_answers: For each unexpected end, the request and the last answer.
    """

    def __init__(self, port: int, images: Sequence[bytes], requests: int) -> None:
        self.outcomes: Counter[str] = Counter()
        self.unexpected_answers: dict[str, str] = {}
        self.done = 0
        self._last = b""
        self._port = port
        self._images = images
        self.requests = requests
        self._begun = 0
        self._limit = 0
        kinds = [(path, kind) for share, path, kind in MIX for _ in range(share)]
        # 37 and 100 have no common factor, so a round contains each entry once, well mixed.
        self._kinds = [kinds[(37 * index) % len(kinds)] for index in range(len(kinds))]

    @property
    def unexpected(self) -> int:
        """How many did not end as expected."""
        return sum(count for end, count in self.outcomes.items() if end not in EXPECTED)

    async def warm_up(self, clients: int) -> None:
        """Have everything loaded before anything is measured; none of these requests is counted."""
        await self._send(WARM_REQUESTS, clients)
        self.outcomes.clear()
        self.unexpected_answers.clear()
        self.done = 0

    async def run(self, clients: int) -> None:
        """Send them all."""
        await self._send(self.requests, clients)

    async def _send(self, count: int, clients: int) -> None:
        self._begun, self._limit = 0, count
        async with asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(self._client())

    async def _client(self) -> None:
        connection: Connection | None = None
        while self._begun < self._limit:
            number, self._begun = self._begun, self._begun + 1
            path, kind = self._kinds[number % len(self._kinds)]
            body = self._images[number % len(self._images)]
            if kind == "not an image":
                body = body[: 200 + number % 2000]
            try:
                if connection is None or not connection.is_open:
                    connection = await connect(self._port)
            except OSError:
                outcomes = "refused"
                await asyncio.sleep(1.0)
            else:
                request = request_of(self._port, path, body, None)
                outcomes = await self._ask(connection, *request, kind)
            self.outcomes[outcomes] += 1
            if outcomes not in EXPECTED:
                self.unexpected_answers[f"{outcomes} {path}"] = self._last.decode(errors="replace")[
                    :400
                ]
            self.done += 1
        if connection is not None:
            connection.close()

    async def _ask(self, connection: Connection, head: bytes, body: bytes, kind: str) -> str:
        if kind == "hangs up":
            answer = connection.post(head, body)
            await asyncio.sleep(0.005)
            connection.close()
            answer.cancel()
            return "hung up"
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                said = await connection.post(head, body)
                self._last = said.body
                return str(said.status)
        except TimeoutError:
            connection.close()
            return "no answer"
        except ConnectionLostError:
            return "connection lost"

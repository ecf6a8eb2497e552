"""What `make soak` sends: very many requests of every sort, in turn, from a few clients."""

import asyncio
from collections import Counter
from collections.abc import Sequence

from benchmarks.load.connection import Connection, ConnectionLostError, connect, request_of

DEADLINE_SECONDS = 120
"""So generous that a machine that does much else beside it fails nothing."""

_TIMEOUT_SECONDS = DEADLINE_SECONDS + 30.0
_CLASSIFY = "/v1/classify"
# Of a hundred requests; the first heatmap comes from the SavedModel, the second needs Keras.
MIX = (
    (90, _CLASSIFY, "picture"),
    (3, "/v1/heatmap", "picture"),
    (1, "/v1/heatmap?method=layer_cam", "picture"),
    (3, _CLASSIFY, "no picture"),
    (1, "/v1/classify?top_k=nonsense", "picture"),
    (1, "/v1/classify?model=nobody", "picture"),
    (1, _CLASSIFY, "hangs up"),
)
WARM_REQUESTS = 200
"""Sent before any is counted: every sort is met twice, and all is loaded that any of them needs."""

EXPECTED = {"200", "404", "422", "hung up"}
"""What the mix ends in; a 429 or a 503 would mean that it was not steady."""


class Load:
    """So many requests, in turn by the mix, from clients that each wait for their answer.

    Args:
        port: Where to.
        pictures: JPEG files.
        requests: How many are counted.

    Attributes:
        done: How many of them had their end.
        became: How many ended how.
        told: Of every unexpected end, what was asked and what the last one said.
    """

    def __init__(self, port: int, pictures: Sequence[bytes], requests: int) -> None:
        self.became: Counter[str] = Counter()
        self.told: dict[str, str] = {}
        self.done = 0
        self._last = b""
        self._port = port
        self._pictures = pictures
        self.requests = requests
        self._begun = 0
        self._most = 0
        kinds = [(path, kind) for share, path, kind in MIX for _ in range(share)]
        # 37 has no factor in common with 100, so a round meets each once, well mixed.
        self._kinds = [kinds[(37 * at) % len(kinds)] for at in range(len(kinds))]

    @property
    def unexpected(self) -> int:
        """How many ended as none of the mix should."""
        return sum(count for end, count in self.became.items() if end not in EXPECTED)

    async def warm(self, clients: int) -> None:
        """Send what must be loaded before anything is measured; none of it is counted."""
        await self._send(WARM_REQUESTS, clients)
        self.became.clear()
        self.told.clear()
        self.done = 0

    async def run(self, clients: int) -> None:
        """Send them all."""
        await self._send(self.requests, clients)

    async def _send(self, count: int, clients: int) -> None:
        self._begun, self._most = 0, count
        async with asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(self._client())

    async def _client(self) -> None:
        connection: Connection | None = None
        while self._begun < self._most:
            number, self._begun = self._begun, self._begun + 1
            path, kind = self._kinds[number % len(self._kinds)]
            body = self._pictures[number % len(self._pictures)]
            if kind == "no picture":
                body = body[: 200 + number % 2000]
            try:
                if connection is None or not connection.is_open:
                    connection = await connect(self._port)
            except OSError:
                became = "refused"
                await asyncio.sleep(1.0)
            else:
                request = request_of(self._port, path, body, None)
                became = await self._ask(connection, *request, kind)
            self.became[became] += 1
            if became not in EXPECTED:
                self.told[f"{became} {path}"] = self._last.decode(errors="replace")[:400]
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

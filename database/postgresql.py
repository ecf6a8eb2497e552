"""Connections to PostgreSQL that give up on a server that has gone silent.

`statement_timeout` is enforced by the server. One that is stopped, whose host has vanished, or that
a firewall has cut off does not report that the time is over, and the driver would wait for it
without end. Keepalives find a host that has vanished, but not a server that is stopped nor a proxy
that drops what it has acknowledged. Therefore the client counts the seconds too.
"""

import time
from collections.abc import Generator
from typing import Any

import psycopg
from psycopg.abc import RV, PQGen
from sqlalchemy import Engine, event

KEEPALIVES = {
    "keepalives": "1",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
}
"""Parameters of libpq, for connections over TCP: a host that has vanished is noticed in 11 s."""
TCP_LIMITS = KEEPALIVES | {"tcp_user_timeout": "10000"}
"""`KEEPALIVES`, and ms after which what was sent and is not acknowledged ends the connection."""


class BoundedConnection(psycopg.Connection[Any]):
    """A connection that is closed when the server sends nothing for too long.

    Everything that the driver waits for passes through `wait`: statements, commits and pings. Only
    silence counts; a large result may take as long as it needs.

    Attributes:
        reply_seconds: How long the server may be silent; longer than it allows a statement.
    """

    reply_seconds: float

    def wait(self, gen: PQGen[RV], *args: Any, **kwargs: Any) -> RV:
        """Wait for the server.

        Raises:
            psycopg.OperationalError: It was silent for too long; the connection is closed.
        """
        return super().wait(self._until_silent(gen), *args, **kwargs)

    def _until_silent(self, gen: PQGen[RV]) -> Generator[Any, Any, RV]:
        try:
            wanted = next(gen)
            heard = time.monotonic()
            while True:
                ready = yield wanted  # nothing is ready after every tenth of a second
                if ready:
                    heard = time.monotonic()
                elif time.monotonic() - heard > self.reply_seconds:
                    self.close()
                    raise psycopg.OperationalError("the server does not answer")
                wanted = gen.send(ready)
        except StopIteration as end:
            result: RV = end.value
            return result


def bound_replies(engine: Engine, seconds: float) -> None:
    """Let the connections of an engine wait that long for the server, each time."""

    def connect(_dialect: Any, _record: Any, args: Any, parameters: Any) -> BoundedConnection:
        connection = BoundedConnection.connect(*args, **parameters)
        connection.reply_seconds = seconds
        return connection

    def restore(connection: BoundedConnection | None, _record: Any) -> None:
        if connection is not None:
            connection.reply_seconds = seconds  # see `database.engine.allow_statements`

    event.listen(engine, "do_connect", connect)
    event.listen(engine, "checkin", restore)

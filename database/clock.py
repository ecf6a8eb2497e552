"""The clock of the database, which the leases of all hosts are measured with.

The clocks of two hosts differ. A host whose clock is a minute ahead would otherwise take jobs that
another is working on.
"""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from sqlalchemy import Engine, text

from contracts.errors import Unavailable
from database.engine import reading

_MEASURE_SECONDS = 10.0
_FIRST_SECONDS = 5.0  # for the first measurement, which another thread makes


class DatabaseClock:
    """The time by the database server; with SQLite, which is used by one host, that host's.

    Asked every few seconds and counted on by the monotonic clock in between, so that a change of
    this host's clock does not matter. While the server does not answer, the last measurement holds.

    Args:
        engine: The database.
        monotonic: Seconds that only ever grow.
        wall: The time by this host.
    """

    def __init__(
        self,
        engine: Engine,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._engine = engine
        self._monotonic = monotonic
        self._wall = wall
        self._lock = threading.Lock()
        self._measured: tuple[float, datetime] | None = None

    def __call__(self) -> datetime:
        """The time.

        Raises:
            Unavailable: The server has never answered.
        """
        if self._engine.dialect.name != "postgresql":
            return self._wall()
        at, then = self._latest()
        return then + timedelta(seconds=self._monotonic() - at)

    def _latest(self) -> tuple[float, datetime]:
        known = self._measured
        # While another thread asks a server that does not answer, no other waits for it.
        if not self._lock.acquire(timeout=_FIRST_SECONDS if known is None else 0):
            if known is None:
                raise Unavailable("The database does not answer. Retry soon.", retry_after=2)
            return known
        try:
            return self._measure()
        finally:
            self._lock.release()

    def _measure(self) -> tuple[float, datetime]:
        if self._measured and self._monotonic() - self._measured[0] < _MEASURE_SECONDS:
            return self._measured
        began = self._monotonic()
        try:
            with reading(self._engine) as session:
                measured: datetime = session.execute(text("SELECT clock_timestamp()")).scalar_one()
        except Unavailable:
            if self._measured is None:
                raise
            return self._measured
        self._measured = (began + self._monotonic()) / 2, measured.astimezone(UTC)
        return self._measured

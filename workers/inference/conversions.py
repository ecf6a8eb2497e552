"""Conversions of versions to other formats, beside the batches and never in their way.

The work is done by a child process (`models.store.derived`); a thread here waits for it, one at a
time, and keeps a sign in Redis by which the API knows that it goes on, or why it ended.
"""

import json
from contextlib import suppress
from queue import Full, Queue
from threading import Thread

import redis
import structlog

from contracts.errors import InternalError, OpsinError
from contracts.queue import redis_keys
from models.store.derived import Derived, convert
from models.store.store import Store

log = structlog.get_logger()

_SIGN_SECONDS = 10
_FAILED_SECONDS = 30
_TURN_SECONDS = 2.0
_MOST_WAITING = 16


class Conversions:
    """Takes conversions and makes them one after the other.

    Args:
        store: Where the versions are.
        client: For the signs.
    """

    def __init__(self, store: Store, client: "redis.Redis") -> None:
        self._store = store
        self._client = client
        self._asked: Queue[tuple[str, int, Derived]] = Queue(_MOST_WAITING)
        # A daemon: a worker that is told to stop does not wait for it, and its child ends too.
        Thread(target=self._work, name="conversions", daemon=True).start()

    def __call__(self, model: str, version: int, kind: Derived) -> None:
        """Put one in line and return; beyond a bound it is left, and asked for again later."""
        with suppress(Full):
            self._asked.put_nowait((model, version, kind))

    def _work(self) -> None:
        while True:
            self._attend(*self._asked.get())

    def _attend(self, model: str, version: int, kind: Derived) -> None:
        key = redis_keys.conversion(model, version, kind)
        failures: list[OpsinError] = []
        work = Thread(target=self._convert, args=(model, version, kind, failures), daemon=True)
        work.start()
        while work.is_alive():
            self._sign(key, {"state": "running"}, _SIGN_SECONDS)
            work.join(_TURN_SECONDS)
        if failures:
            told = {"state": "failed", "code": failures[0].code, "detail": failures[0].detail}
            self._sign(key, told, _FAILED_SECONDS)
        else:
            self._sign(key, {"state": "done"}, _SIGN_SECONDS)

    def _convert(self, model: str, version: int, kind: Derived, failures: list[OpsinError]) -> None:
        try:
            convert(self._store, model, version, kind)
        except OpsinError as error:
            failures.append(error)
        except Exception:
            log.exception("conversion_failed", model=model, version=version, kind=kind)
            failures.append(InternalError("The conversion failed; the worker's log says why."))

    def _sign(self, key: str, told: dict[str, str], seconds: int) -> None:
        try:
            self._client.set(key, json.dumps(told), ex=seconds)
        except redis.RedisError as error:
            log.warning("conversion_not_told", error=type(error).__name__)

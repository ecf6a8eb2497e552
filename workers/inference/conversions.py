"""Converts versions to other formats without delaying the batches.

A child process does the work (`models.store.derived`). A thread waits for it, one conversion at a
time, and keeps its state in Redis, where the API sees that it is running or why it failed.
"""

import json
from contextlib import suppress
from queue import Full, Queue
from threading import Thread

import redis
import structlog

from contracts.errors import InternalError, OpsinError
from contracts.failures import disk_error
from contracts.queue import redis_keys
from models.store.derived import DerivedFormat, convert
from models.store.store import Store

log = structlog.get_logger()

_STATE_EXPIRES_SECONDS = 10
_FAILURE_EXPIRES_SECONDS = 30
_STATE_INTERVAL_SECONDS = 2.0
_MAX_WAITING = 16


class ConversionRunner:
    """Runs conversions one after the other.

    Args:
        store: Where the versions are.
        client: Holds the state of each conversion.
        kept_bytes: Of the disk, which they leave free.
    """

    def __init__(self, store: Store, client: "redis.Redis", kept_bytes: int = 0) -> None:
        self._store = store
        self._kept_bytes = kept_bytes
        self._client = client
        self._waiting: Queue[tuple[str, int, DerivedFormat]] = Queue(_MAX_WAITING)
        # A daemon: a stopping worker does not wait for it, and its child process ends too.
        Thread(target=self._run, name="conversions", daemon=True).start()

    def submit(self, model: str, version: int, kind: DerivedFormat) -> None:
        """Queue a conversion; if too many wait, it is dropped, and the API asks for it again."""
        with suppress(Full):
            self._waiting.put_nowait((model, version, kind))

    def _run(self) -> None:
        while True:
            self._run_one(*self._waiting.get())

    def _run_one(self, model: str, version: int, kind: DerivedFormat) -> None:
        key = redis_keys.conversion(model, version, kind)
        failures: list[OpsinError] = []
        work = Thread(target=self._convert, args=(model, version, kind, failures), daemon=True)
        work.start()
        while work.is_alive():
            self._publish(key, {"state": "running"}, _STATE_EXPIRES_SECONDS)
            work.join(_STATE_INTERVAL_SECONDS)
        if failures:
            failure = {"state": "failed", "code": failures[0].code, "detail": failures[0].detail}
            self._publish(key, failure, _FAILURE_EXPIRES_SECONDS)
        else:
            self._publish(key, {"state": "done"}, _STATE_EXPIRES_SECONDS)

    def _convert(
        self, model: str, version: int, kind: DerivedFormat, failures: list[OpsinError]
    ) -> None:
        try:
            convert(self._store, model, version, kind, kept_bytes=self._kept_bytes)
        except OpsinError as error:
            failures.append(error)
        except Exception as error:
            if (unusable := disk_error(error)) is not None:
                failures.append(unusable)
                return
            log.exception("conversion_failed", model=model, version=version, kind=kind)
            failures.append(InternalError("The conversion failed; the worker's log says why."))

    def _publish(self, key: str, state: dict[str, str], seconds: int) -> None:
        try:
            self._client.set(key, json.dumps(state), ex=seconds)
        except redis.RedisError as error:
            log.warning("conversion_state_not_sent", error=type(error).__name__)

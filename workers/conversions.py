"""Conversions of versions to other formats, beside the batches and never in their way.

The work is done by a child process (`models.conversion`); a thread here waits for it, one at a
time, and keeps a sign in Redis by which the API knows that it goes on, or why it ended.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from threading import Thread

import redis
import structlog

from contracts import names
from contracts.errors import InternalError, OpsinError
from models.conversion import Derived, convert
from models.store import Store

log = structlog.get_logger()

_SIGN_SECONDS = 10
_FAILED_SECONDS = 30
_TURN_SECONDS = 2.0


class Conversions:
    """Takes conversions and makes them one after the other.

    Args:
        store: Where the versions are.
        client: For the signs.
    """

    def __init__(self, store: Store, client: "redis.Redis") -> None:
        self._store = store
        self._client = client
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="conversion")

    def __call__(self, model: str, version: int, kind: Derived) -> None:
        """Begin one; returns at once."""
        self._thread.submit(self._attend, model, version, kind)

    def close(self) -> None:
        """Take no more; one under way ends with its child."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _attend(self, model: str, version: int, kind: Derived) -> None:
        key = names.conversion(model, version, kind)
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

"""Counts what goes wrong between this process and Redis or the database."""

import copy
from functools import partial
from typing import Any, Self

from sqlalchemy import Engine, event
from sqlalchemy.engine import ExceptionContext

from contracts.metrics.registry import Metrics
from contracts.queue.retries import BoundedAsyncRetry, BoundedRetry


class _Counted:
    """A retry that counts; each connection of a pool has a copy of it."""

    _metrics: Metrics

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        copied = copy.copy(self)
        copied._backoff = copy.deepcopy(self._backoff, memo)  # type: ignore[attr-defined]
        return copied

    def failed(self, error: Exception, *, is_repeated: bool) -> None:
        self._metrics.inc("redis_errors_total", type(error).__name__)
        if is_repeated:
            self._metrics.inc("redis_retries_total")


class CountedRetry(_Counted, BoundedRetry):
    """For a synchronous client."""


class CountedAsyncRetry(_Counted, BoundedAsyncRetry):
    """For an asynchronous client."""


def count_redis(client: Any, metrics: Metrics) -> None:
    """Count the failures and the connections of a client that is not connected yet.

    It tries again as often as it did before.
    """
    pool = client.connection_pool
    is_async = "asyncio" in type(pool).__module__
    before = pool.connection_kwargs.get("retry") or client.get_retry()
    kind = CountedAsyncRetry if is_async else CountedRetry
    retry = kind(before._backoff, before._retries, before._supported_errors)
    retry._metrics = metrics
    client.set_retry(retry)
    pool.connection_kwargs["retry"] = retry
    # Connections hold it weakly.
    pool.connection_counter = counter = (_AsyncConnections if is_async else _Connections)(metrics)
    pool.connection_class = partial(_open, pool.connection_class, counter)


def _open(connection_class: Any, counter: "_Connections", **options: Any) -> Any:
    connection = connection_class(**options)
    connection.register_connect_callback(counter.connected)
    return connection


class _Connections:
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def connected(self, _connection: Any) -> Any:
        self._metrics.inc("redis_connections_total")


class _AsyncConnections(_Connections):
    async def connected(self, _connection: Any) -> None:
        super().connected(_connection)


def count_database(engine: Engine, metrics: Metrics) -> None:
    """Count the failed statements, the connections and the replaced ones of an engine."""

    def failed(context: ExceptionContext) -> None:
        # SQLAlchemy's kinds are the same for all databases; drivers have hundreds of their own.
        error = context.sqlalchemy_exception or context.original_exception
        metrics.inc("database_errors_total", type(error).__name__)
        if context.is_pre_ping:
            metrics.inc("database_retries_total")

    def connected(_connection: object, _record: object) -> None:
        metrics.inc("database_connections_total")

    event.listen(engine, "handle_error", failed)
    event.listen(engine, "connect", connected)

"""The Celery configuration, the same for processes that send tasks and those that run them.

Celery wakes, routes and supervises workers, with one task per turn of a queue; the images
themselves travel through Redis lists (see `contracts.queue.messages`). Celery stores no results:
replies come back on our own lists, and jobs live in the database.

The transport is kombu's Redis transport with one correction. kombu counts a message as
unacknowledged until Redis has confirmed it, and if the acknowledgement fails, Celery logs the
error and goes on. With one message at a time allowed, a Redis that is silent for some seconds would
leave a worker that sends heartbeats, looks ready and never takes another task. Here the slot is
freed in any case: tasks are acknowledged early anyway, and running one twice is harmless.
"""

from typing import Any
from urllib.parse import parse_qs, urlsplit

from celery import Celery
from celery.app.amqp import AMQP
from kombu import Connection
from kombu.serialization import disable_insecure_serializers
from kombu.transport import redis, virtual

from contracts.queue.redis_keys import TASK_BATCH, TASK_CONVERT, TASK_NOTIFY, TASK_RUN_JOB
from contracts.queue.retries import bounded_async_retry, bounded_retry

_LIMITS: dict[str, Any] = {
    "socket_connect_timeout": 3,
    "socket_timeout": 5,
    "health_check_interval": 15,
}
REDIS_OPTIONS: dict[str, Any] = _LIMITS | {"retry": bounded_retry()}
"""Options of every Redis client: no call waits for long for a Redis that has gone silent."""
ASYNC_REDIS_OPTIONS: dict[str, Any] = _LIMITS | {"retry": bounded_async_retry()}
"""The same for clients of an event loop."""


def celery_app(redis_url: str) -> Celery:
    """The Celery application on that Redis. Connects only when it is used."""
    disable_insecure_serializers()
    app = Celery("opsin", broker=_kombu_url(redis_url), amqp=Amqp)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        # The API's recovery sends a lost task again, so tasks may be acknowledged early.
        task_acks_late=False,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_send_task_events=False,
        worker_enable_remote_control=False,
        broker_connection_retry_on_startup=True,
        broker_connection_timeout=3,
        broker_transport_options={
            "socket_timeout": 5,
            "socket_connect_timeout": 3,
            "socket_keepalive": True,
        },
        task_publish_retry=False,
        task_create_missing_queues=True,
        task_routes={TASK_RUN_JOB: {}, TASK_BATCH: {}, TASK_CONVERT: {}, TASK_NOTIFY: {}},
    )
    return app


def _kombu_url(redis_url: str) -> str:
    """The address in kombu's notation; only those of Unix sockets differ."""
    parts = urlsplit(redis_url)
    if parts.scheme != "unix":
        return redis_url
    database = parse_qs(parts.query).get("db", ["0"])[0]
    user = f"{parts.username or ''}:{parts.password}@" if parts.password else ""
    return f"redis+socket://{user}{parts.path}?virtual_host={database}"


class _QoS(redis.QoS):  # type: ignore[misc]
    def ack(self, delivery_tag: str) -> None:
        try:
            self._remove_from_indices(delivery_tag).execute()
        finally:
            virtual.QoS.ack(self, delivery_tag)


class _Channel(redis.Channel):  # type: ignore[misc]
    QoS = _QoS


class _Transport(redis.Transport):  # type: ignore[misc]
    Channel = _Channel


class _Connection(Connection):  # type: ignore[misc]
    def get_transport_cls(self) -> type[_Transport]:
        return _Transport


def _no_exchange(_queue: str) -> None:
    """The exchange of a queue: tasks are put into the queue itself."""


class Amqp(AMQP):  # type: ignore[misc]
    """For `Celery(amqp=…)`: every connection of the application uses our transport.

    Queues have no exchanges. By default, each would have one of its name, and Redis would keep what
    is bound to it for ever, also for the queue of a worker that is gone.
    """

    Connection = _Connection
    autoexchange = staticmethod(_no_exchange)

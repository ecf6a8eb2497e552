"""How Celery is set up, alike for the process that sends a task and for the one that runs it.

Celery routes, supervises and scales the *drains* of a lane, one task a batch; the images travel
beside it (see `contracts.queue.messages`). Nothing is stored by Celery: answers come back on our
own lists, and jobs live in the database.

kombu's Redis transport, less one trap: an acknowledgement that fails must not block a worker.

kombu counts a message as unacknowledged until Redis has confirmed, and Celery logs a failure and
goes on. With one message at a time allowed, a Redis that is silent for some seconds so leaves a
worker that beats, looks ready, and never takes another task. Here the place is free all the same:
what it stood for is acknowledged early anyway, and drains and jobs bear being told twice.
"""

from urllib.parse import parse_qs, urlsplit

from celery import Celery
from celery.app.amqp import AMQP
from kombu import Connection
from kombu.serialization import disable_insecure_serializers
from kombu.transport import redis, virtual

from contracts.queue.redis_keys import TASK_CONVERT, TASK_DRAIN, TASK_RING, TASK_RUN_JOB


def celery_app(redis_url: str) -> Celery:
    """The Celery application on that Redis. Connects only when it is used."""
    disable_insecure_serializers()
    app = Celery("opsin", broker=_kombu_url(redis_url), amqp=Amqp)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        # A drain that is lost is sent again by the API's sweep, so it may be acked early.
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
        task_routes={TASK_RUN_JOB: {}, TASK_DRAIN: {}, TASK_CONVERT: {}, TASK_RING: {}},
    )
    return app


def _kombu_url(redis_url: str) -> str:
    """The address as kombu spells it ; only unix sockets differ."""
    parts = urlsplit(redis_url)
    if parts.scheme != "unix":
        return redis_url
    database = parse_qs(parts.query).get("db", ["0"])[0]
    user = f"{parts.username or ''}:{parts.password}@" if parts.password else ""
    return f"redis+socket://{user}{parts.path}?virtual_host={database}"


REDIS_OPTIONS: dict[str, float] = {
    "socket_connect_timeout": 3,
    "socket_timeout": 5,
    "health_check_interval": 15,
}
"""How every client of ours connects: no call waits for ever on a Redis that went silent."""


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


class Amqp(AMQP):  # type: ignore[misc]
    """What `Celery(amqp=…)` takes: every connection of that application is of our transport."""

    Connection = _Connection

"""kombu's Redis transport, less one trap: an acknowledgement that fails must not block a worker.

kombu counts a message as unacknowledged until Redis has confirmed, and Celery logs a failure and
goes on. With one message at a time allowed, a Redis that is silent for some seconds so leaves a
worker that beats, looks ready, and never takes another task. Here the place is free all the same:
what it stood for is acknowledged early anyway, and drains and jobs bear being told twice.
"""

from celery.app.amqp import AMQP
from kombu import Connection
from kombu.transport import redis, virtual


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

import signal

import redis
from kombu import Consumer, Message, Queue

from contracts.queue import redis_keys
from contracts.queue.celery import celery_app
from tests.valkey import RealValkey


class Log:
    def critical(self, *args: object, **kwargs: object) -> None:
        """Ignore Celery's log line."""


def test_failed_acknowledgement_frees_its_slot(valkey: RealValkey) -> None:
    app = celery_app(valkey.url)
    app.conf.broker_transport_options |= {"socket_timeout": 1.0}
    taken: list[Message] = []
    with app.connection_for_read() as connection:
        channel = connection.channel()
        app.send_task("test.task", queue="inference.test")
        with Consumer(
            channel,
            [Queue("inference.test")],
            on_message=taken.append,
            prefetch_count=1,
            accept=["json"],
        ):
            connection.drain_events(timeout=60)
            assert not channel.qos.can_consume()
            process = valkey.process
            assert process
            process.send_signal(signal.SIGSTOP)
            try:
                taken[0].ack_log_error(Log(), connection.connection_errors)
            finally:
                process.send_signal(signal.SIGCONT)
            assert channel.qos.can_consume()
    app.close()


def test_the_queues_of_workers_that_are_gone_leave_nothing_in_redis(valkey: RealValkey) -> None:
    for worker in ("w1", "w2"):
        app = celery_app(valkey.url)
        queue = redis_keys.own_queue(worker)
        app.amqp.queues.select([queue])
        taken: list[Message] = []
        with app.connection_for_read() as connection:
            consumer = app.amqp.TaskConsumer(connection.channel(), on_message=taken.append)
            with consumer:
                celery_app(valkey.url).send_task(redis_keys.TASK_NOTIFY, queue=queue)
                connection.drain_events(timeout=60)
                taken[0].ack()
        app.close()
    with redis.Redis.from_url(valkey.url) as client:
        assert [key for key in client.scan_iter("*") if b"worker" in key] == []

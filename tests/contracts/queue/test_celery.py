import signal

from kombu import Consumer, Message, Queue

from contracts.queue.celery import celery_app
from tests.valkey import RealValkey


class Log:
    def critical(self, *args: object, **kwargs: object) -> None:
        """Ignore Celery's log line."""


def test_failed_acknowledgement_frees_its_slot(valkey: RealValkey) -> None:
    app = celery_app(valkey.url)
    app.conf.broker_transport_options |= {"socket_timeout": 0.3}
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
            connection.drain_events(timeout=5)
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

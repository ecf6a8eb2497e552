"""`opsin serve` and `opsin worker`: one process, for `opsin up` or a container."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from cli.backup.placing import require_whole
from cli.home import Home
from cli.migrate import migrate
from cli.output import CommandError
from cli.processes.malloc import tune
from cli.processes.parent_death import PARENT, watch_parent
from cli.processes.signals import StopSignals
from cli.settings import environment, with_redis
from contracts.settings import Settings

# The process may take its own time to finish; then what is left of it has a little more.
_SPARE_SECONDS = 2.0


def serve(settings: Settings) -> None:
    """The API, on a database that is brought up to date first."""
    settings = with_redis(settings, "serve")
    with _using(settings):
        tune()
        watch_parent(settings.shutdown_seconds + _SPARE_SECONDS)
        migrate(settings)
        from cli.commands.keys import live_keys
        from service.lifespan import open_services  # FastAPI; not for a worker
        from service.server import serve as run

        run(settings, open_services, keyed=live_keys(settings))


def serve_many(settings: Settings) -> None:
    """Several of them behind one port, kept and, when that is asked for, replaced in turn."""
    settings = with_redis(settings, "serve")
    with _using(settings):
        from cli.processes.api_supervisor import keep_api  # rich; one process does without

        supervised = PARENT in os.environ
        with StopSignals() as signals:
            watch_parent(settings.shutdown_seconds + 2 * _SPARE_SECONDS)
            migrate(settings)
            keep_api(settings, signals, supervised=supervised)


def serve_shared(settings: Settings, shared: str) -> None:
    """One of several. It was given the socket, and the pipe on which it says that it is there."""
    settings = with_redis(settings, "serve")
    with _using(settings):
        tune()
        watch_parent(settings.shutdown_seconds + _SPARE_SECONDS)
        from cli.commands.keys import live_keys
        from service.lifespan import open_services
        from service.server import serve as run

        port, told = map(int, shared.split(","))
        listener = socket.socket(fileno=port)
        keyed = live_keys(settings)
        run(settings, open_services, keyed=keyed, listener=listener, ready=lambda: _say_ready(told))


def _say_ready(pipe: int) -> None:
    os.write(pipe, b"1")


def keep(settings: Settings) -> None:
    """One inference worker that is restarted when it crashes and replaced when it outgrows."""
    settings = with_redis(settings, "worker")
    with _using(settings):
        from cli.processes.worker_supervisor import keep_worker  # Redis; other commands do without

        # Before `watch_parent`, which takes the variable away.
        supervised = PARENT in os.environ
        with StopSignals() as signals:
            # The worker has the time that is told; its keeper, a little more to see it end.
            watch_parent(settings.shutdown_seconds + 2 * _SPARE_SECONDS)
            keep_worker(settings, signals, supervised=supervised)


def work(settings: Settings) -> None:
    """One inference worker, until SIGTERM."""
    settings = with_redis(settings, "worker")
    with _using(settings):
        watch_parent(settings.shutdown_seconds + _SPARE_SECONDS)
        from workers.inference.main import run  # Celery and TensorFlow; not for the API

        run(settings)


def work_on_jobs(settings: Settings) -> None:
    """One job worker, until SIGTERM. It loads no TensorFlow: each job has a process of its own."""
    settings = with_redis(settings, "worker --jobs")
    with _using(settings):
        # Each child reads its settings from the environment, as we did.
        os.environ.update(
            {k: v for k, v in environment(settings).items() if k.startswith("OPSIN_")}
        )
        watch_parent(settings.shutdown_seconds + 2 * _SPARE_SECONDS)
        migrate(settings)
        from workers.jobs.main import run  # Celery; not for the API

        try:
            run(settings)
        except ValueError as error:
            raise CommandError(f"{error}.", exit_code=2) from None


@contextmanager
def _using(settings: Settings) -> Iterator[None]:
    """Keep a restore from the home while this process runs, and this process from half a home."""
    with Home(settings.home).shared():
        require_whole(settings.home)
        yield

"""`opsin serve` and `opsin worker`: one part of the service, for `opsin up` or a container."""

import os
import socket
from collections.abc import Callable
from typing import Annotated

import typer

from cli.output import CommandError
from cli.processes.malloc import configure_malloc
from cli.processes.signals import StopSignals, end_at_once
from cli.settings import environment, load, require_redis
from cli.startup import has_live_keys, migrate, require_redis_of_home, using_home
from contracts.errors import Unavailable
from contracts.settings import Settings
from models.processes import PARENT, end_with_parent

# The process has `shutdown_seconds` to finish; what is left of it then has a little more.
_SPARE_SECONDS = 2.0


def serve(
    shared: Annotated[
        str,
        typer.Option(hidden=True, help="Descriptors: the listening socket, and a pipe to report."),
    ] = "",
) -> None:
    """Run the API alone; needs OPSIN_REDIS_URL."""
    end_at_once()
    settings = require_redis(load(follow=False), "serve")
    with using_home(settings):
        if shared:
            _serve_shared(settings, shared)
        elif settings.api_processes > 1:
            _serve_many(settings)
        else:
            _serve_alone(settings)


def worker(
    unkept: Annotated[
        bool, typer.Option("--unkept", help="One bare process that is not restarted or replaced.")
    ] = False,
    jobs: Annotated[
        bool, typer.Option("--jobs", help="A job worker: trainings and other long tasks.")
    ] = False,
) -> None:
    """Run one inference worker, or one job worker, alone.

    It needs OPSIN_REDIS_URL.
    """
    end_at_once()
    settings = require_redis(load(follow=False), "worker --jobs" if jobs else "worker")
    with using_home(settings):
        require_redis_of_home(settings)
        if jobs:
            _run_job_worker(settings)
        elif unkept:
            _run_worker(settings)
        else:
            _supervise_worker(settings)


def _serve_alone(settings: Settings) -> None:
    configure_malloc()
    end_with_parent(settings.shutdown_seconds + _SPARE_SECONDS)
    migrate(settings, is_start=True)
    require_redis_of_home(settings)
    _serve(settings)


def _serve_many(settings: Settings) -> None:
    """Supervise several API processes behind one port."""
    from cli.processes.api_supervisor import supervise_api  # rich; one process does without it

    supervised = PARENT in os.environ  # before `end_with_parent`, which removes it
    with StopSignals() as signals:
        end_with_parent(settings.shutdown_seconds + 2 * _SPARE_SECONDS)
        migrate(settings, is_start=True)
        require_redis_of_home(settings)
        supervise_api(settings, signals, supervised=supervised)


def _serve_shared(settings: Settings, shared: str) -> None:
    """Run one of several API processes, with its supervisor's socket."""
    configure_malloc()
    end_with_parent(settings.shutdown_seconds + _SPARE_SECONDS)
    port, pipe = map(int, shared.split(","))
    _serve(settings, socket.socket(fileno=port), lambda: _report_ready(pipe))


def _serve(
    settings: Settings,
    listener: socket.socket | None = None,
    ready: Callable[[], None] | None = None,
) -> None:
    from service.lifespan import open_services  # FastAPI; not for a worker
    from service.server import serve as run

    try:
        keyed = has_live_keys(settings)
    except Unavailable:
        keyed = False  # then other machines are not let in
    run(settings, open_services, keyed=keyed, listener=listener, ready=ready)


def _report_ready(pipe: int) -> None:
    os.write(pipe, b"1")


def _supervise_worker(settings: Settings) -> None:
    """Restart one inference worker when it crashes, and replace it when it outgrows its limit."""
    from cli.processes.worker_supervisor import supervise_worker  # Redis

    supervised = PARENT in os.environ  # before `end_with_parent`, which removes it
    with StopSignals() as signals:
        # The worker may take `shutdown_seconds`; its supervisor has a little more to see it end.
        end_with_parent(settings.shutdown_seconds + 2 * _SPARE_SECONDS)
        supervise_worker(settings, signals, supervised=supervised)


def _run_worker(settings: Settings) -> None:
    end_with_parent(settings.shutdown_seconds + _SPARE_SECONDS)
    from workers.inference.main import run  # Celery and TensorFlow; not for the API

    run(settings)


def _run_job_worker(settings: Settings) -> None:
    """Without TensorFlow: each job has a process of its own."""
    # Each child reads its settings from the environment, as this process did.
    os.environ.update({k: v for k, v in environment(settings).items() if k.startswith("OPSIN_")})
    end_with_parent(settings.shutdown_seconds + 2 * _SPARE_SECONDS)
    migrate(settings)
    from workers.jobs.main import run  # Celery; not for the API

    try:
        run(settings)
    except ValueError as error:
        raise CommandError(f"{error}.", exit_code=2) from None

"""The process of a long job: ``python -m workers.jobs.child JOB_ID --worker … --attempt …``.

It is started for each attempt and never forked: TensorFlow does not survive a fork, and only the
end of a process reliably frees its memory. It ends with its parent, and so does all it started.
With ``--answers``, it takes further jobs of the same kind from its standard input.
"""

import argparse
import os
import secrets
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import redis
import structlog
from redis import RedisError
from structlog.contextvars import bind_contextvars, clear_contextvars

from contracts.errors import DiskUnusable, InternalError, OpsinError, Unavailable
from contracts.failures import client_error
from contracts.files import has_room
from contracts.jobs import LEASE_SECONDS, MAX_NICENESS, PICTURE_KINDS, Progress
from contracts.logs import configure_logs
from contracts.metrics.dependencies import count_database
from contracts.metrics.process import process_reader
from contracts.metrics.publisher import MetricsPublisher
from contracts.metrics.registry import Metrics
from contracts.queue.announcing import announce
from contracts.queue.celery import REDIS_OPTIONS
from contracts.settings import MIB, Settings
from contracts.tracing.origin import TraceContext
from contracts.tracing.spans import flush_tracing, start_tracing, stop_tracing
from contracts.work import WorkStoppedError
from database.clock import DatabaseClock
from database.engine import open_engine
from database.installation import home_id
from database.jobs.files import JobFiles
from database.jobs.leases import Lease, Leases
from models.processes import end_with_parent, lower_priority
from workers.jobs.consents import Consents
from workers.jobs.context import LeasedWork, json_safe
from workers.jobs.disk import becomes_usable
from workers.jobs.handlers import TABLE, load_handler
from workers.jobs.memory import reserved_memory

log = structlog.get_logger()

EXIT_ENDED = 0
EXIT_UNFINISHED = 75  # EX_TEMPFAIL: the parent gives the job back
EXIT_LOCKED = 76  # likewise; another process, such as one that is frozen, has its folder
_LOCK_SECONDS = LEASE_SECONDS / 2
_PUBLISHING = {"training", "sweep", "quantize"}
"""The kinds of jobs that publish or promote versions."""
_DISK_SECONDS = 15.0
"""How long a job waits for a disk that cannot be written to before it fails."""
_END_SECONDS = LEASE_SECONDS / 3
_POLL_SECONDS = 0.5
_OOM_SCORE, _MAX_OOM_SCORE = Path("/proc/self/oom_score_adj"), "1000"


def main(arguments: list[str]) -> int:
    """Run an attempt at a job, or one after another; return the exit status."""
    parser = argparse.ArgumentParser(prog="workers.jobs.child")
    parser.add_argument("job_id")
    parser.add_argument("--worker", required=True)
    parser.add_argument("--attempt", type=int, required=True)
    parser.add_argument("--kinds", default=TABLE)
    parser.add_argument("--answers", type=int, help="Where to write the status of each job.")
    parser.add_argument("--trace", default="", help="The span of the attempt, as a traceparent.")
    options = parser.parse_args(arguments)
    end_with_parent()
    settings = Settings()
    configure_logs(settings.log_level, settings.log_format)
    start_tracing(settings, "job")
    child = _Child(settings, options.worker, options.kinds)
    try:
        status = child.run(options.job_id, options.attempt, options.trace)
        if options.answers is None:
            return status
        for job_id, attempt, trace in _further_jobs(child, status, options.answers):
            status = child.run(job_id, attempt, trace)
            if status != EXIT_ENDED:
                return status  # the parent starts another process
            child.report()
            _answer(options.answers, status)
        return status
    finally:
        child.close()
        stop_tracing()


def _further_jobs(child: "_Child", status: int, answers: int) -> Iterator[tuple[str, int, str]]:
    """What the parent sends, until it closes the pipe; nothing if the first job has not ended."""
    if status != EXIT_ENDED:
        return
    # What the jobs start must not read from there.
    requests = os.fdopen(os.dup(0))
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    child.report()
    _answer(answers, status)
    for line in requests:
        job_id, attempt, *trace = line.split()
        yield job_id, int(attempt), "".join(trace)


def _answer(answers: int, status: int) -> None:
    with suppress(BrokenPipeError):  # the parent is gone, and so are we in a moment
        os.write(answers, f"{status}\n".encode())


class _Child:
    """What the attempts in this process share."""

    def __init__(self, settings: Settings, worker_id: str, kinds: str) -> None:
        self._settings = settings
        self._worker_id = worker_id
        self._kinds = kinds
        self._engine = open_engine(settings.database)
        self._metrics = Metrics()
        count_database(self._engine, self._metrics)
        self._leases = Leases(self._engine, DatabaseClock(self._engine), self._metrics)
        self._publisher: MetricsPublisher | None = None
        self._held = ExitStack()
        self._began = False

    def run(self, job_id: str, attempt: int, trace: str) -> int:
        """Run one attempt, a part of the span `trace`; return the status."""
        settings = self._settings
        clear_contextvars()
        try:
            lease = self._leases.get(job_id, self._worker_id, attempt)
            if lease is None:
                return EXIT_ENDED
            bind_contextvars(**lease.origin.log_fields)
            if not self._began:
                self._began = True
                highest = MAX_NICENESS.get(lease.kind, settings.job_niceness)
                lower_priority(min(settings.job_niceness, highest))
                _die_first()
                self._publisher = _publish_metrics(settings, self._metrics)
            work = LeasedWork(
                lease,
                self._leases,
                JobFiles.of(settings),
                max_hours(settings, lease.kind),
                self._metrics,
                trace=TraceContext.parse(trace),
                kept_bytes=settings.min_free_disk_bytes if lease.kind in PICTURE_KINDS else 0,
            )
            # The memory is free when the process ends, or is kept for another job.
            self._held.close()
            consents = Consents.of(settings, self._engine)
            return JobAttempt(
                lease, work, self._leases, settings, self._kinds, consents=consents, held=self._held
            ).run()
        except (Unavailable, TimeoutError) as error:
            log.warning("job_interrupted", job=job_id, error=str(error))
            return EXIT_LOCKED if isinstance(error, TimeoutError) else EXIT_UNFINISHED
        finally:
            self._engine.dispose()  # no connection is held between two jobs

    def report(self) -> None:
        """Publish what was counted and recorded: the parent may kill an idle process."""
        if self._publisher is not None:
            self._publisher.publish()
        flush_tracing()

    def close(self) -> None:
        if self._publisher is not None:
            self._publisher.stop()
        self._engine.dispose()
        self._held.close()


def _publish_metrics(settings: Settings, metrics: Metrics) -> MetricsPublisher | None:
    """Publish what this process counts; without Redis nothing is published."""
    if settings.redis_url is None:
        return None
    metrics.before_reading(process_reader(metrics, settings.home))
    client = redis.Redis.from_url(settings.redis_url, **REDIS_OPTIONS)
    publisher = MetricsPublisher(client, metrics, secrets.token_hex(8), "job")
    publisher.start()
    return publisher


class JobAttempt:
    """One attempt at one job.

    Args:
        lease: Taken by the parent process.
        kinds: The table of handlers, see `workers.jobs.handlers`.
        work: What the handler sees of it.
        consents: Of those whom the versions that it uses were trained on.
        held: Gives back what the job has reserved of the memory.
    """

    def __init__(
        self,
        lease: Lease,
        work: LeasedWork,
        leases: Leases,
        settings: Settings,
        kinds: str,
        *,
        consents: Consents,
        held: ExitStack,
    ) -> None:
        self._lease = lease
        self._leases = leases
        self._settings = settings
        self._kinds = kinds
        self._consents = consents
        self._held = held
        self._files = JobFiles.of(settings)
        self._work = work

    def run(self) -> int:
        """Run the handler and write the outcome; return the exit status.

        Raises:
            Unavailable: The database does not answer.
            TimeoutError: Another process is still working on this job.
        """
        signal.signal(signal.SIGTERM, lambda *_: self._work.stop("shutdown"))
        job_id = self._lease.job_id
        self._work.start()
        with self._files.locked(job_id, _LOCK_SECONDS):
            log.info("job_begins", job=job_id, kind=self._lease.kind, attempt=self._lease.attempt)
            outcome = self._outcome()
            self._work.close(_code_of(outcome))
            ended = self._has_home(outcome) and self._end(outcome)
            if ended:
                log.info("job_ended", job=job_id, kind=self._lease.kind)
                self._files.end_work(job_id)
        return EXIT_ENDED if ended else EXIT_UNFINISHED

    def _outcome(self) -> dict[str, Any] | OpsinError | WorkStoppedError:
        try:
            self._work.check()
            kind, settings = self._lease.kind, self._settings
            self._held.enter_context(reserved_memory(self._work, kind, settings, self._kinds))
            self._consents.require_for(self._work.request)  # it may have waited for days
            # Importing TensorFlow and the like takes seconds.
            self._work.progress(Progress(fraction=0, phase="loading"))
            handler = load_handler(kind, self._kinds)
            result: dict[str, Any] = json_safe(handler(self._work, settings))
        except WorkStoppedError as error:
            return error
        except OpsinError as error:
            return self._after_waiting(error)
        except Exception as error:
            log.exception("job_failed", job=self._lease.job_id, kind=self._lease.kind)
            return self._after_waiting(_client_error(error, self._lease.kind))
        return result

    def _after_waiting(self, error: OpsinError) -> OpsinError | WorkStoppedError:
        """The error; one that asks for another attempt if a disk has become usable again."""
        if not isinstance(error, DiskUnusable):
            return error
        log.warning("disk_unusable", job=self._lease.job_id, error=error.detail)
        homes = (self._settings.jobs_home, self._settings.store_home, self._settings.datasets_home)
        try:
            if becomes_usable(homes, _DISK_SECONDS, self._work.check):
                return Unavailable("The disk could not be written to for a moment.")
        except WorkStoppedError as stopped:
            return stopped
        return error

    def _has_home(self, outcome: dict[str, Any] | OpsinError | WorkStoppedError) -> bool:
        """Whether the outcome counts.

        If the disk of the home was unmounted, what is missing is not deleted, and what was written
        is not kept.
        """
        if isinstance(outcome, WorkStoppedError) or home_id(self._settings.home) is not None:
            return True
        log.error("home_missing", home=str(self._settings.home))
        return False

    def _end(self, outcome: dict[str, Any] | OpsinError | WorkStoppedError) -> bool:
        """As `_finish`; if the disk has no room for that, after the job's work has been deleted."""
        try:
            return self._finish(outcome)
        except Unavailable:
            is_file = self._settings.database.startswith("sqlite")
            if not is_file or has_room(self._settings.home, MIB, 0):
                raise
        log.warning("disk_full_at_the_end", job=self._lease.job_id)
        self._files.end_work(self._lease.job_id)
        until = time.monotonic() + _END_SECONDS
        while True:
            try:
                return self._finish(outcome)
            except Unavailable:  # another attempt would have no inputs
                if time.monotonic() > until:
                    raise
                time.sleep(_POLL_SECONDS)

    def _finish(self, outcome: dict[str, Any] | OpsinError | WorkStoppedError) -> bool:
        """Write the outcome; return whether the job has ended."""
        if isinstance(outcome, dict):
            self._announce()
            return self._leases.succeed(self._lease, outcome)
        if isinstance(outcome, OpsinError) and outcome.is_passing:
            # Not the fault of the job, so it is tried again.
            log.warning("job_interrupted", job=self._lease.job_id, error=outcome.detail)
            return False
        if isinstance(outcome, OpsinError):
            return self._leases.fail(self._lease, outcome)
        match self._work.stopped:
            case "cancelled":
                return self._leases.cancel(self._lease)
            case "overdue":
                return self._leases.fail(
                    self._lease, overdue_error(self._settings, self._lease.kind)
                )
        return False

    def _announce(self) -> None:
        """Before a job that published a version has succeeded, let every API process know it."""
        if self._lease.kind not in _PUBLISHING or self._settings.redis_url is None:
            return
        try:
            with redis.Redis.from_url(self._settings.redis_url, **REDIS_OPTIONS) as client:
                announce(client, "models")
        except (redis.RedisError, OSError) as error:
            log.warning("change_not_announced", error=type(error).__name__)


def _code_of(outcome: dict[str, Any] | OpsinError | WorkStoppedError) -> str:
    if isinstance(outcome, WorkStoppedError):
        return str(outcome)
    return outcome.code if isinstance(outcome, OpsinError) else ""


def _client_error(error: Exception, kind: str) -> OpsinError:
    """As `client_error`; another attempt if the queue does not answer."""
    if isinstance(error, RedisError):
        return Unavailable("The queue does not answer.")
    return client_error(error, kind)


def max_hours(settings: Settings, kind: str) -> float:
    """Hours that a job of that kind may run in total."""
    if kind in PICTURE_KINDS:
        return min(settings.picture_max_hours, settings.job_max_hours)
    return settings.job_max_hours


def overdue_error(settings: Settings, kind: str) -> OpsinError:
    """The error of a job that has run too long."""
    hours = max_hours(settings, kind)
    name = "OPSIN_JOB_MAX_HOURS"
    if hours < settings.job_max_hours:
        name = "OPSIN_PICTURE_MAX_HOURS"
    return InternalError(
        f"It ran longer than {hours:g} hours, the maximum ({name}). Request less work, or ask the "
        "operator to raise the limit."
    )


def _die_first() -> None:
    """If memory runs out, the kernel kills a job, which can be resumed, and no inference worker."""
    with suppress(OSError):
        _OOM_SCORE.write_text(_MAX_OOM_SCORE)


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stderr.flush()
    sys.stdout.flush()
    # TensorFlow's threads sometimes crash while the interpreter shuts down.
    os._exit(status)

"""The process of one long job: ``python -m workers.jobs.child JOB_ID --worker … --attempt …``.

Started afresh for each attempt, never forked: TensorFlow does not survive a fork, and only the end
of a process surely gives its memory back. Its standard input is a pipe that its parent holds open:
when that ends, the parent is gone, and so are we.
"""

import argparse
import errno
import os
import signal
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread
from typing import Any

import structlog

from contracts.errors import InternalError, OpsinError, Unavailable
from contracts.jobs import LEASE_SECONDS, MOST_NICENESS
from contracts.logs import configure_logs
from contracts.settings import Settings
from contracts.work import WorkStoppedError
from database.engine import open_engine
from database.jobs.files import JobFiles
from database.jobs.leases import Lease, Leases
from workers.jobs.context import LeasedWork, plain
from workers.jobs.handlers import TABLE, function_of

log = structlog.get_logger()

ENDED = 0
UNFINISHED = 75  # EX_TEMPFAIL: the job is to be given back
_LOCK_SECONDS = LEASE_SECONDS / 2
_AUTOGROUP = Path("/proc/self/autogroup")
_OOM_SCORE, _FIRST_TO_GO = Path("/proc/self/oom_score_adj"), "1000"


def main(arguments: list[str]) -> int:
    """Bring the job to an end, or say that it is not ended; returns the exit status."""
    parser = argparse.ArgumentParser(prog="workers.jobs.child")
    parser.add_argument("job_id")
    parser.add_argument("--worker", required=True)
    parser.add_argument("--attempt", type=int, required=True)
    parser.add_argument("--kinds", default=TABLE)
    asked = parser.parse_args(arguments)
    Thread(target=_end_with_parent, name="parent-watch", daemon=True).start()
    settings = Settings()
    configure_logs(settings.log_level, settings.log_format)
    engine = open_engine(settings.database)
    leases = Leases(engine, lambda: datetime.now(UTC))
    try:
        lease = leases.held(asked.job_id, asked.worker, asked.attempt)
        if lease is None:
            return ENDED
        stand_back(min(settings.job_niceness, MOST_NICENESS.get(lease.kind, settings.job_niceness)))
        return Attempt(lease, leases, settings, asked.kinds).run()
    except (Unavailable, TimeoutError) as error:
        log.warning("job_interrupted", job=asked.job_id, error=str(error))
        return UNFINISHED
    finally:
        engine.dispose()


class Attempt:
    """One attempt at one job, from the lease to the end.

    Args:
        lease: Held by the parent on our behalf.
        leases: To end it with.
        settings: The whole configuration.
        kinds: Which table names the functions.
    """

    def __init__(self, lease: Lease, leases: Leases, settings: Settings, kinds: str) -> None:
        self._lease = lease
        self._leases = leases
        self._settings = settings
        self._kinds = kinds
        self._files = JobFiles.of(settings)
        self._work = LeasedWork(lease, leases, self._files, settings.job_max_hours)

    def run(self) -> int:
        """Returns the exit status.

        Raises:
            Unavailable: The database does not answer.
            TimeoutError: Another process still works on this job.
        """
        signal.signal(signal.SIGTERM, lambda *_: self._work.ask("asked"))
        job_id = self._lease.job_id
        self._work.start()
        with self._files.locked(job_id, _LOCK_SECONDS):
            log.info("job_begins", job=job_id, kind=self._lease.kind, attempt=self._lease.attempt)
            ended = self._finish(self._outcome())
            if ended:
                self._files.end_work(job_id)
        return ENDED if ended else UNFINISHED

    def _outcome(self) -> dict[str, Any] | OpsinError | WorkStoppedError:
        try:
            self._work.check()
            function = function_of(self._lease.kind, self._kinds)
            result: dict[str, Any] = plain(function(self._work, self._settings))
        except (WorkStoppedError, OpsinError) as told:
            return told
        except Exception as broken:
            log.exception("job_failed", job=self._lease.job_id, kind=self._lease.kind)
            return _told(broken, self._lease.kind)
        return result

    def _finish(self, outcome: dict[str, Any] | OpsinError | WorkStoppedError) -> bool:
        """Write the end; whether the job has ended here."""
        self._work.close()
        if isinstance(outcome, dict):
            return self._leases.succeed(self._lease, outcome)
        if isinstance(outcome, Unavailable):
            # Not the job's fault: it is tried again.
            log.warning("job_interrupted", job=self._lease.job_id, error=outcome.detail)
            return False
        if isinstance(outcome, OpsinError):
            return self._leases.fail(self._lease, outcome)
        match self._work.stopped:
            case "cancelled":
                return self._leases.cancelled(self._lease)
            case "overdue":
                return self._leases.fail(self._lease, overdue(self._settings))
        return False


def _told(broken: Exception, kind: str) -> OpsinError:
    """What a client reads of an exception nobody meant for it."""
    if isinstance(broken, OSError) and broken.errno in (errno.ENOSPC, errno.EDQUOT):
        # Tried again: its checkpoints are worth keeping until there is room.
        return Unavailable("The disk is full.", retry_after=60)
    if isinstance(broken, MemoryError):
        return InternalError("Memory was wanting. Ask for a smaller batch, image or network.")
    if isinstance(broken, ImportError):
        return InternalError(
            f"This worker cannot do '{kind}'. `opsin doctor` may say what it lacks."
        )
    return InternalError("The work failed; the job worker's log says why.")


def overdue(settings: Settings) -> OpsinError:
    """What a client reads of a job that ran too long."""
    return InternalError(
        f"It ran longer than {settings.job_max_hours:g} hours, the most a job may "
        "(OPSIN_JOB_MAX_HOURS). Ask for less, or have the limit raised."
    )


def stand_back(niceness: int) -> None:
    """Let everything else on this machine go first.

    Args:
        niceness: From 0, not at all, to 19.
    """
    os.nice(niceness)
    # Linux may weigh whole sessions against each other first, and this process has its own.
    with suppress(OSError):
        _AUTOGROUP.write_text(str(niceness))
    # Where memory runs out, the kernel takes what can be done again, never the one that serves.
    with suppress(OSError):
        _OOM_SCORE.write_text(_FIRST_TO_GO)


def _end_with_parent() -> None:
    with suppress(OSError):
        while os.read(0, 64):
            pass
    # The group is ours alone, and what we started goes with us.
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(1)


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stderr.flush()
    sys.stdout.flush()
    # TensorFlow's threads do not always survive the interpreter's tidying up.
    os._exit(status)

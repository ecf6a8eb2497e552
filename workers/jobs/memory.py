"""The wait until there is room for a job's memory beside that of the other jobs.

The memory is reserved before anything large is loaded, so a job that waits takes little itself. A
training gives back what it turns out not to need.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from contracts.jobs import WAITING_FOR_MEMORY, Progress
from contracts.settings import Settings
from models.memory.ledger import MemoryLedger
from workers.jobs.context import LeasedWork
from workers.jobs.handlers import load_estimate

log = structlog.get_logger()


@contextmanager
def reserved_memory(work: LeasedWork, kind: str, settings: Settings, kinds: str) -> Iterator[None]:
    """Wait until there is room for a job, and keep it while the block runs.

    The wait is a phase of the job and no part of its running time.

    Args:
        kind: The job's.
        kinds: The table of handlers, see `workers.jobs.handlers`.

    Raises:
        OpsinError: The job could never fit.
        WorkStoppedError: The job was stopped while it waited.
    """
    size = load_estimate(kind, kinds)(work, settings)
    if not size:
        yield
        return
    began = time.monotonic()

    def waiting() -> None:
        if not work.is_paused:
            log.info("job_waits_for_memory", job=work.job_id, bytes=size)
            work.progress(Progress(fraction=0, phase=WAITING_FOR_MEMORY))
            work.pause()
        work.check()

    with MemoryLedger.of(settings).reserve(size, waiting) as reservation:
        work.at_peak = reservation.lower_to_peak
        if work.is_paused:
            work.resume()
            log.info("memory_reserved", job=work.job_id, seconds=time.monotonic() - began)
        yield

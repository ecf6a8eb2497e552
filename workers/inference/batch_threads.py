"""Threads that answer batches beside the one that runs the Celery task.

Each takes, computes and answers its own batches, and none waits for another: while one sends
replies, takes the next images and stacks them, the others compute.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Barrier, Lock

import structlog

log = structlog.get_logger()


class BatchThreads:
    """Runs functions in several threads.

    Args:
        count: The number of threads, at least one. They start now, when there is memory for them.
    """

    def __init__(self, count: int) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="batch")
        started = Barrier(count + 1)
        for _ in range(count):
            self._pool.submit(started.wait)
        started.wait()
        self._count = count
        self._running: set[Future[None]] = set()
        self._beginning = Lock()

    @property
    def running(self) -> int:
        """How many functions have not ended yet."""
        return len(self._running)

    def begin(self, work: Callable[[], None], limit: int) -> None:
        """Run a function, unless that many run already; its errors are logged."""
        with self._beginning:
            if self.running < min(limit, self._count):
                future = self._pool.submit(_logged, work)
                self._running.add(future)
                future.add_done_callback(self._running.discard)

    def close(self) -> None:
        """Wait for the functions that run; none is begun any more."""
        self._pool.shutdown()


def _logged(work: Callable[[], None]) -> None:
    try:
        work()
    except Exception:
        log.exception("batch_thread_failed")

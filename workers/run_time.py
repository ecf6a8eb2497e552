"""How long a job has run in all its attempts: the time between them does not count.

Kept in the job's scratch folder, which outlives a lost process and goes when the job ends. What a
killed attempt ran since it last noted it is lost; that is seconds, of hours.
"""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

from models.manifest import write_atomically

_FILE = "run-seconds"


class RunTime:
    """The running time of one attempt, on top of those before it.

    Args:
        folder: The job's own.
        clock: Monotonic seconds.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = folder / _FILE
        self._clock = clock
        self._began = clock()
        self._before = _read(self._path)

    @property
    def seconds(self) -> float:
        """How long the job has run until now."""
        return self._before + self._clock() - self._began

    def note(self) -> None:
        """Keep it for the next attempt, as well as the disk allows."""
        with contextlib.suppress(OSError):
            write_atomically(self._path, f"{self.seconds:.3f}")


def _read(path: Path) -> float:
    try:
        return max(0.0, float(path.read_text()))
    except (OSError, ValueError):
        return 0.0

"""Ctrl-C, SIGTERM and a closed terminal, counted: the first asks to stop, the second means now."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

_ASKED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopSignals:
    """While it is entered, those signals are counted here and interrupt nothing else."""

    def __init__(self) -> None:
        self._count = 0
        self._asked = threading.Event()
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._note) for number in _ASKED}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 (signal's form)
        self._count += 1
        self._asked.set()

    def asked(self) -> bool:
        """Whether to stop."""
        return self._asked.is_set()

    def hurried(self) -> bool:
        """Whether to stop at once."""
        return self._count > 1

    def wait(self, seconds: float) -> bool:
        """Sleeps that long or until asked to stop; whether to stop."""
        return self._asked.wait(seconds)

"""Ctrl-C, SIGTERM and a closed terminal, counted: the first requests a stop, the second hurries."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopSignals:
    """While it is entered, those signals are counted here and interrupt nothing else."""

    def __init__(self) -> None:
        self._count = 0
        self._requested = threading.Event()
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._handlers = {number: signal.signal(number, self._record) for number in _SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _record(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 (signal's form)
        self._count += 1
        self._requested.set()

    def stop_requested(self) -> bool:
        return self._requested.is_set()

    def stop_at_once(self) -> bool:
        """Whether a second signal has come."""
        return self._count > 1

    def wait(self, seconds: float) -> bool:
        """Sleep that long, or until a stop is requested; whether it is."""
        return self._requested.wait(seconds)

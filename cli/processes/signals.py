"""Ctrl-C, SIGTERM and a closed terminal, counted: the first requests a stop, the second hurries."""

import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

_ENDS = (signal.SIGTERM, signal.SIGHUP)
_SIGNALS = (signal.SIGINT, *_ENDS)


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


@contextmanager
def ending_orderly() -> Iterator[None]:
    """Let SIGTERM and a closed terminal end the block as Ctrl-C does, so that it removes its files.

    One that is ignored, as with `nohup`, stays so. The exit status is 128 and the signal's number.
    """
    ours = [number for number in _ENDS if signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, _end)
    try:
        yield
    finally:
        end_at_once(ours)


def end_at_once(numbers: Iterable[signal.Signals] = _ENDS) -> None:
    """Take `ending_orderly` back, as for a process that leaves no files behind."""
    for number in numbers:
        if signal.getsignal(number) is _end:
            signal.signal(number, signal.SIG_DFL)


def _end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 (signal's form)
    for one in _ENDS:  # `timeout` and shells send a second one, which would interrupt the removal
        signal.signal(one, signal.SIG_IGN)
    raise SystemExit(128 + number)

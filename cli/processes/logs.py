"""The children's log files: rotated when they start or are large, quoted on failure, followed."""

import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

_TAIL_BYTES = 16_384


def rotate(log: Path) -> Path:
    """Make room for a new run's log; the last run's is kept as ``.1``."""
    if log.exists():
        log.replace(log.with_name(log.name + ".1"))
    return log


def limit_size(log: Path, max_bytes: int) -> bool:
    """Move a log's content to ``.1`` if it is too large; whether it was.

    The process that writes it keeps the same open file, and appends to it (`O_APPEND`). Lines that
    it writes between the copy and the truncation are lost.
    """
    try:
        if log.stat().st_size <= max_bytes:
            return False
    except FileNotFoundError:
        return False
    kept, copy = log.with_name(log.name + ".1"), log.with_name(log.name + ".new")
    try:
        shutil.copyfile(log, copy)
        copy.replace(kept)
    except OSError:  # no room: what runs is more important than what was
        copy.unlink(missing_ok=True)
    os.truncate(log, 0)
    return True


def tail(log: Path, *, lines: int) -> str:
    """The last lines, indented by two; empty if there is no log."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            content = file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    plain = [line for raw in content.splitlines()[-lines:] for line in _format(raw)]
    return "\n".join(f"  {line}" for line in plain[-lines:])


def _format(line: str) -> list[str]:
    """A line of a log for people: of JSON, the level, the event and the error's trace."""
    try:
        entry = json.loads(line)
        event = f"{entry.get('level', 'info')}: {entry['event']}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return [line]
    return [*event.splitlines(), *_error_of(entry.get("exception"))]


def _error_of(exception: object) -> list[str]:
    """Structlog writes an exception as a list of its causes, the last one first."""
    if not isinstance(exception, list):
        return []
    return [f"  {cause.get('exc_type')}: {cause.get('exc_value')}" for cause in exception]


class Follower:
    """Shows the new lines of some logs.

    Args:
        show: Called with a log's name, without its suffix, and a line.
    """

    def __init__(self, logs: Iterable[Path], show: Callable[[str, str], None]) -> None:
        self._offsets = dict.fromkeys(logs, 0)
        self._show = show

    def show_new(self) -> None:
        """Show the whole lines that were added since the last call."""
        for log, shown in self._offsets.items():
            if not log.exists():
                continue
            with log.open("rb") as file:
                # A log that was too large has begun anew.
                offset = shown if shown <= os.fstat(file.fileno()).st_size else 0
                file.seek(offset)
                added = file.read()
            whole = added[: added.rfind(b"\n") + 1]
            self._offsets[log] = offset + len(whole)
            for line in whole.decode(errors="replace").splitlines():
                self._show(log.stem, line)

"""The children's log files: rotated at a start, quoted on failure, followed on request."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

_TAIL_BYTES = 16_384


def rotate(log: Path) -> Path:
    """Make room for a new run's log; the last run's is kept as ``.1``."""
    if log.exists():
        log.replace(log.with_name(log.name + ".1"))
    return log


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
        for log, offset in self._offsets.items():
            if not log.exists():
                continue
            with log.open("rb") as file:
                file.seek(offset)
                added = file.read()
            whole = added[: added.rfind(b"\n") + 1]
            self._offsets[log] = offset + len(whole)
            for line in whole.decode(errors="replace").splitlines():
                self._show(log.stem, line)

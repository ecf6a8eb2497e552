"""The children's log files: kept from the last run, quoted on failure, followed on request."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

_TAIL_BYTES = 16_384


def rotate(log: Path) -> Path:
    """Makes room for a new run's log; the last run's is kept as ``.1``."""
    if log.exists():
        log.replace(log.with_name(log.name + ".1"))
    return log


def tail(log: Path, *, lines: int) -> str:
    """The last lines, indented by two; empty where there is no log."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            content = file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    plain = [line for raw in content.splitlines()[-lines:] for line in readable(raw)]
    return "\n".join(f"  {line}" for line in plain[-lines:])


def readable(line: str) -> list[str]:
    """A line of a log as people read it: of JSON the level, the event and the error's trace."""
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
    """Shows what is added to some logs, whole lines only, each time it is asked to."""

    def __init__(self, logs: Iterable[Path], show: Callable[[str, str], None]) -> None:
        """Args: `show` gets the log's name (without suffix) and a line."""
        self._offsets = dict.fromkeys(logs, 0)
        self._show = show

    def look(self) -> None:
        """Shows the lines that came since the last look."""
        for log, offset in self._offsets.items():
            if not log.exists():
                continue
            with log.open("rb") as file:
                file.seek(offset)
                fresh = file.read()
            whole = fresh[: fresh.rfind(b"\n") + 1]
            self._offsets[log] = offset + len(whole)
            for line in whole.decode(errors="replace").splitlines():
                self._show(log.stem, line)

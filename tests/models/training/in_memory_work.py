"""A `Work` in memory that records what it receives and can raise at the start of a phase."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from contracts.jobs import Progress


class InMemoryWork:
    """Implements `contracts.work.Work` with lists in memory.

    Attributes:
        scopes: See `contracts.work.HasScopes`.

    Args:
        on_phase: Called with the name of each phase that is reported; may raise.
    """

    def __init__(
        self,
        job_id: str,
        request: dict[str, Any],
        folder: Path,
        on_phase: Callable[[str], None] = lambda _phase: None,
    ) -> None:
        self.job_id, self.request, self.folder = job_id, request, folder
        self.attempt = 1
        self.scopes = frozenset[str]()
        self.rows: list[dict[str, Any]] = []
        self.fractions: list[float] = []
        self.phases: list[str] = []
        self.artifacts: dict[str, tuple[str, bytes]] = {}
        self._on_phase = on_phase

    def progress(self, progress: Progress) -> None:
        self.fractions.append(progress.fraction)
        phase = progress.phase or ""
        if not self.phases or self.phases[-1] != phase:
            self.phases.append(phase)
            self._on_phase(phase)

    def metrics(self, row: dict[str, Any]) -> None:
        self.rows.append(row)

    def artifact(self, name: str, media_type: str, content: bytes) -> None:
        self.artifacts[name] = (media_type, content)

    def check(self) -> None:
        pass

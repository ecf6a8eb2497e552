"""How long a job still takes, from how fast it has become."""

from contracts.jobs import STARTING, WAITING_FOR_MEMORY

_MEASURABLE = 1e-3  # less progress says nothing about the pace
_WITHOUT_WORK = frozenset({STARTING, WAITING_FOR_MEMORY, "loading"})
_MAX_SAMPLES = 64


class Pace:
    """The remaining time at the pace of the later half of what this attempt has done.

    The time in which libraries are loaded says nothing about it, and on a busy machine a job that
    was starved may run at full speed later, or the other way round.
    """

    def __init__(self) -> None:
        self._samples: list[tuple[float, float]] = []

    def note(self, now: float, fraction: float, phase: str | None) -> None:
        """Take note of the progress at a moment, in seconds."""
        if phase in _WITHOUT_WORK:
            return
        self._samples.append((now, fraction))
        if len(self._samples) > _MAX_SAMPLES:
            self._samples = self._samples[:1] + self._samples[2::2]

    def remaining(self, now: float, fraction: float) -> float | None:
        """Seconds until the end; None while nothing is known."""
        if not self._samples or fraction - self._samples[0][1] < _MEASURABLE:
            return None
        middle = (fraction + self._samples[0][1]) / 2
        then, before = next(one for one in reversed(self._samples) if one[1] <= middle)
        return (1 - fraction) * (now - then) / (fraction - before)

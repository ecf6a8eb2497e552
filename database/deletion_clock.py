"""The time for what is deleted for its age, which does not believe every clock.

People are erased and audits deleted for good when they are old enough. A host whose clock is set
years ahead, as by a wrong time server or an empty battery, would do that to all of them. So this
time follows the clock, but only by a few hours each time that it is asked for. After a real pause
of a month it has caught up within hours; a clock that is years ahead is noticed, and corrected,
long before it counts.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import structlog
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from database.engine import writing
from database.setting_rows import setting_row
from database.tables import AuditRecord, SubjectRecord

log = structlog.get_logger()

STEP = timedelta(hours=6)
"""By how much the time moves at most, each time."""

_ROW_KEY = "deletion_clock"
_PAUSE = timedelta(minutes=5)  # several processes that ask in turn move it once
_NOTICEABLE = timedelta(days=2)


class DeletionClock:
    """One for all processes, in a row of the database.

    Args:
        clock: Returns an aware time.
    """

    def __init__(self, engine: Engine, clock: Callable[[], datetime]) -> None:
        self._engine = engine
        self._clock = clock

    def now(self) -> datetime:
        """The time; never later than the clock's. Ask every few minutes.

        Raises:
            Unavailable: The database does not answer.
        """
        clock = self._clock().astimezone(UTC)
        with writing(self._engine) as session:
            row, is_new = setting_row(session, _ROW_KEY)
            if is_new:  # of a new database, or after an upgrade, when the clock may be wrong too
                newest = _newest(session)
                trusted = clock if newest is None else min(clock, newest + STEP)
            else:
                earlier, asked = (datetime.fromisoformat(row.value[key]) for key in ("at", "asked"))
                is_early = abs(clock - asked) < _PAUSE
                trusted = min(clock, earlier if is_early else earlier + STEP)
                if is_early:
                    return trusted
            row.value = {"at": trusted.isoformat(), "asked": clock.isoformat()}
            row.updated_at = clock
        if clock - trusted > _NOTICEABLE:
            log.warning(
                "clock_ahead",
                days=(clock - trusted).days,
                hint="Nothing is deleted for its age by this clock yet. If it is wrong, set it.",
            )
        return trusted


def _newest(session: Session) -> datetime | None:
    """When something was last noted that is deleted for its age; None if there is nothing."""
    row = SubjectRecord
    columns = (AuditRecord.at, row.created_at, row.updated_at, row.last_used_at)
    with session.no_autoflush:  # the new row is not complete yet
        found = [session.scalar(select(func.max(column))) for column in columns]
    return max((moment for moment in found if moment is not None), default=None)

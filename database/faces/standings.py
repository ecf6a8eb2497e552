"""What a subject's face may be used for: consent, failures since the last match, last use."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import Engine, and_, case, func, null, or_, select, update

from contracts.errors import Conflict
from contracts.faces.consent import Consent, Policy
from database.engine import batches, reading, writing
from database.faces.template_rows import find_subject
from database.tables import SubjectRecord

_ACCURACY = timedelta(hours=1)  # of `last_used_at`, so that not every match has to write


@dataclass(frozen=True, slots=True)
class Standing:
    """How a subject stands.

    Attributes:
        disabled: Whether its face was disabled, after too many failures or by the operator.
        by_operator: Whether it was the operator, whose change also ends the row of failures.
    """

    name: str
    consent: Consent | None
    disabled: bool
    by_operator: bool = False


class Standings:
    """Columns of the table of subjects. Raises `Unavailable` if the database does not answer."""

    def __init__(self, engine: Engine, clock: Callable[[], datetime]) -> None:
        self._engine = engine
        self._clock = clock

    def get(self, subject_id: str) -> Standing:
        """How a subject stands.

        Raises:
            SubjectNotFound: There is no such subject.
        """
        with reading(self._engine) as session:
            return standing_of(find_subject(session, subject_id))

    def of(self, ids: Collection[str]) -> dict[str, Standing]:
        """How several stand; unknown ids are left out."""
        standings: dict[str, Standing] = {}
        with reading(self._engine) as session:
            for batch in batches(ids):
                query = select(SubjectRecord).where(SubjectRecord.id.in_(batch))
                standings |= {row.id: standing_of(row) for row in session.scalars(query)}
        return standings

    def record_match(self, subject_id: str) -> None:
        """Record that a face has matched: a use, and the end of a row of failures."""
        now, row = self._clock(), SubjectRecord
        outdated = or_(
            row.failures > 0,
            row.face_disabled_at.is_not(None),
            row.last_used_at.is_(None),
            row.last_used_at < now - _ACCURACY,
        )
        with reading(self._engine) as session:
            stale = select(row.id).where(row.id == subject_id, outdated)
            if session.scalar(stale) is None:
                return
        with writing(self._engine) as session:
            # What the operator has disabled, perhaps during this login, stays so.
            disabled_at = case((row.failures > 0, null()), else_=row.face_disabled_at)
            values = {"failures": 0, "face_disabled_at": disabled_at, "last_used_at": now}
            session.execute(update(row).where(row.id == subject_id).values(values))

    def record_uses(self, ids: Collection[str]) -> None:
        """Record that subjects were identified: a use, but no proof that ends a row of failures."""
        now, row = self._clock(), SubjectRecord
        outdated = or_(row.last_used_at.is_(None), row.last_used_at < now - _ACCURACY)
        for batch in batches(sorted(ids)):
            which = and_(row.id.in_(batch), outdated)
            with reading(self._engine) as session:
                if session.scalar(select(row.id).where(which).limit(1)) is None:
                    continue
            with writing(self._engine) as session:
                session.execute(update(row).where(which).values(last_used_at=now))

    def record_failure(self, subject_id: str, most: int) -> bool:
        """Count a failure; returns whether the face is disabled now because of it.

        None is counted once the operator has disabled the face, perhaps during this login: it is by
        the count of failures that `_standing` and `record_match` tell who did.
        """
        row = SubjectRecord
        counts = and_(row.id == subject_id, or_(row.face_disabled_at.is_(None), row.failures > 0))
        counted = update(row).where(counts).values(failures=row.failures + 1)
        counted = counted.returning(row.failures)
        with writing(self._engine) as session:
            failures = session.scalar(counted)
            if failures is None or failures < most:
                return False
            disabled = update(row).where(row.id == subject_id, row.face_disabled_at.is_(None))
            session.execute(disabled.values(face_disabled_at=self._clock()))
        return True

    def unused(
        self, days: int, *, limit: int, only: str | None = None, now: datetime | None = None
    ) -> list[str]:
        """Ids of subjects that were neither used nor changed for some days, longest first.

        Args:
            days: Since the last use and the last change.
            limit: At most so many.
            only: Look at this subject only.
            now: By `database.deletion_clock`, where it decides what is erased; the clock's if None.
        """
        row, cutoff = SubjectRecord, (now or self._clock()) - timedelta(days=days)
        unused = and_(
            row.created_at < cutoff,
            row.updated_at < cutoff,
            or_(row.last_used_at.is_(None), row.last_used_at < cutoff),
        )
        if only is not None:
            unused = and_(row.id == only, unused)
        oldest = func.coalesce(row.last_used_at, row.created_at)
        query = select(row.id).where(unused).order_by(oldest, row.id).limit(limit)
        with reading(self._engine) as session:
            return list(session.scalars(query))


def require_consent(standing: Standing, policy: Policy) -> None:
    """Refuse a subject without a consent in force, where one is required.

    Raises:
        Conflict: There is none.
    """
    if has_consent(standing, policy):
        return
    raise Conflict(
        "The subject has no consent that is in force, which this service requires. Record it with "
        'PATCH /v1/faces/subjects/{id} and {"consent": {…}}.'
    )


def has_consent(standing: Standing, policy: Policy) -> bool:
    """Whether a subject's face may be processed."""
    if not policy.consent_required:
        return True
    return standing.consent is not None and standing.consent.in_force(datetime.now(UTC))


def touch(subject: SubjectRecord, now: datetime) -> None:
    """Record a use of a subject in the caller's transaction."""
    subject.last_used_at = now


def consent_of(row: SubjectRecord) -> Consent | None:
    """The consent in a row."""
    return None if row.consent is None else Consent.model_validate(row.consent)


def standing_of(row: SubjectRecord) -> Standing:
    """The standing in a row."""
    disabled = row.face_disabled_at is not None
    return Standing(row.name, consent_of(row), disabled, disabled and row.failures == 0)

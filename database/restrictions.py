"""What was taken back: revoked keys, removed devices, withdrawn consents, disabled faces.

A restored backup is older than that. `restrictions_of` reads it from the database that is about to
be replaced, and `repeat` takes the same back in the restored one.
"""

from collections.abc import Callable
from datetime import datetime

from pydantic import BaseModel, ConfigDict
from sqlalchemy import Engine, null, select
from sqlalchemy.orm import Session

from contracts.audit import Action
from database.audit import COMMAND, record
from database.engine import batches, reading, writing
from database.keys import ends_of_keys, restrict_keys
from database.tables import FaceDeviceRecord, SubjectRecord


class Restrictions(BaseModel):
    """What a database no longer allows.

    Attributes:
        keys: The ids of keys that end, and when; None for those that were revoked.
        devices: The devices that each subject still has.
        without_consent: Subjects without one.
        disabled: Subjects whose face is disabled, with their failures; 0 if the operator did it.
    """

    model_config = ConfigDict(frozen=True)

    keys: dict[str, datetime | None] = {}
    devices: dict[str, list[str]] = {}
    without_consent: list[str] = []
    disabled: dict[str, int] = {}


def restrictions_of(engine: Engine) -> Restrictions:
    """Read them.

    Raises:
        Unavailable: The database does not answer.
    """
    row, device = SubjectRecord, FaceDeviceRecord
    columns = (row.id, row.consent, row.face_disabled_at, row.failures)
    with reading(engine) as session:
        subjects = session.execute(select(*columns)).all()
        devices: dict[str, list[str]] = {one.id: [] for one in subjects}
        for subject_id, device_id in session.execute(select(device.subject_id, device.device_id)):
            devices[subject_id].append(device_id)
        return Restrictions(
            keys=ends_of_keys(session),
            devices=devices,
            without_consent=[one.id for one in subjects if one.consent is None],
            disabled={one.id: one.failures for one in subjects if one.face_disabled_at is not None},
        )


def repeat(engine: Engine, restrictions: Restrictions, clock: Callable[[], datetime]) -> int:
    """Take back again what a restored database allows; the audit log has it. Returns how much.

    Raises:
        Unavailable: The database does not answer.
    """
    now = clock()
    with writing(engine) as session:
        taken: list[tuple[Action, str]] = [
            ("key_revoked", subject) for subject in restrict_keys(session, restrictions.keys, now)
        ]
        for batch in batches(sorted(restrictions.devices)):
            rows = session.scalars(select(SubjectRecord).where(SubjectRecord.id.in_(batch)))
            for row in rows:
                taken += _restricted(session, row, restrictions, now)
        for action, subject in taken:
            record(session, COMMAND, action, subject, now)
    return len(taken)


def _restricted(
    session: Session, row: SubjectRecord, restrictions: Restrictions, now: datetime
) -> list[tuple[Action, str]]:
    taken: list[tuple[Action, str]] = []
    if row.consent is not None and row.id in restrictions.without_consent:
        row.consent = null()  # not the null of JSON
        taken.append(("consent_withdrawn", row.id))
    if row.face_disabled_at is None and row.id in restrictions.disabled:
        row.face_disabled_at, row.failures = now, restrictions.disabled[row.id]
        taken.append(("face_disabled", row.id))
    query = select(FaceDeviceRecord).where(FaceDeviceRecord.subject_id == row.id)
    for device in session.scalars(query):
        if device.device_id not in restrictions.devices[row.id]:
            session.delete(device)
            taken.append(("device_removed", row.id))
    return taken

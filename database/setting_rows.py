"""Rows with one value each, which the first change makes."""

from sqlalchemy.orm import Session

from database.engine import advisory_lock
from database.tables import FaceSettingRecord

_LOCK = 0x0951_0007  # see `database.engine.advisory_lock`


def setting_row(session: Session, key: str) -> tuple[FaceSettingRecord, bool]:
    """The row of a setting, in a transaction that will set its value; and whether it is new.

    Two first changes at the same moment would both add it, and one of them would fail.
    """
    advisory_lock(session.connection(), _LOCK)
    row = session.get(FaceSettingRecord, key)
    if row is not None:
        return row, False
    row = FaceSettingRecord(key=key)
    session.add(row)
    return row, True

"""What a restore left in the database, by which the next one tells what was decided since.

A restored database allows less than another for two reasons: its backup is older than what was
allowed, or something was taken back. Only the second counts in later restores. So it is compared
with what it was when the restore was complete, and with its audit log since.
"""

import hashlib
import json
import secrets
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict
from sqlalchemy import Engine, func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from database.engine import DamagedDatabaseError, reading, writing
from database.restrictions import Restrictions
from database.setting_rows import setting_row
from database.tables import AuditRecord, FaceDeviceRecord, FaceSettingRecord, SubjectRecord

Part = Literal["consent", "face", "devices", "frames"]

_DIGEST_CHARACTERS = 32
_ROW_KEY = "restored"
_DECIDES: dict[str, Part] = {
    "device_removed": "devices",
    "consent_recorded": "consent",
    "consent_withdrawn": "consent",
    "face_disabled": "face",
    "face_enabled": "face",
    "frames_allowed": "frames",
    "frames_forbidden": "frames",
}


class RestoredPerson(BaseModel):
    """One subject in a restored database.

    Attributes:
        changed_at: When its row was last changed.
        consent: The digest of its consent.
        devices: Digests of its devices with their public keys.
    """

    model_config = ConfigDict(frozen=True)

    changed_at: AwareDatetime
    consent: str | None = None
    disabled_at: AwareDatetime | None = None
    devices: frozenset[str] = frozenset()
    frames: bool = True


class Restored(BaseModel):
    """A database when its restore was complete.

    Attributes:
        id: In the database too, so that no other is compared.
        at: Nothing in its backup was decided later.
        audited: The newest line of its audit log, and when that was written.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    at: AwareDatetime
    audited: tuple[int, AwareDatetime] | None
    people: dict[str, RestoredPerson]


@dataclass(frozen=True, slots=True)
class Kept:
    """What has not changed for one subject since the restore, and so comes from its backup.

    Attributes:
        dates: The latest moment at which each unchanged part can have been decided.
        devices: The restored ones, as digests; decided before `devices_at`.
        removed: Those known to be removed since.
        is_removal_unknown: Whether others were too: added and removed since.
    """

    dates: dict[Part, datetime]
    devices: frozenset[str]
    devices_at: datetime
    added: frozenset[str]
    removed: frozenset[str]
    is_removal_unknown: bool


def mark(engine: Engine, backup_at: datetime, clock: Callable[[], datetime]) -> Restored:
    """Describe a database whose restore is complete, and write the description's id into it.

    Args:
        backup_at: When its backup was begun.

    Raises:
        Unavailable: The database does not answer.
    """
    with writing(engine) as session:
        row, _ = setting_row(session, _ROW_KEY)
        row.value, row.updated_at = {"id": secrets.token_hex(16)}, clock()
        people, audit = _people(session), AuditRecord
        newest = session.execute(select(audit.id, audit.at).order_by(audit.id.desc()).limit(1))
        line = newest.first()
        return Restored(
            id=row.value["id"],
            at=max([backup_at, *(person.changed_at for person in people.values())]),
            audited=None if line is None else (line.id, line.at),
            people=people,
        )


def kept_since(engine: Engine, restored: Restored | None) -> dict[str, Kept]:
    """What has not changed since the restore, by subject; empty if that cannot be told.

    Raises:
        Unavailable: The database does not answer.
    """
    if restored is None:
        return {}
    try:
        with reading(engine) as session:
            if not _is_complete(session, restored):
                return {}
            decided, found = _decisions(session, restored), _people(session)
    except (SQLAlchemyError, DamagedDatabaseError, ValueError, LookupError, TypeError):
        return {}
    return {
        one: _kept(before, found[one], restored.at, decided[one])
        for one, before in restored.people.items()
        if one in found
    }


def news(found: Restrictions, kept: Mapping[str, Kept]) -> Restrictions:
    """What was decided since the restore, or may have been."""

    def is_new(one: str, part: Part) -> bool:
        return one not in kept or part not in kept[one].dates

    ends, disabled, devices = found.consent_ends, found.disabled, found.devices
    return found.model_copy(
        update={
            "without_consent": [one for one in found.without_consent if is_new(one, "consent")],
            "consent_ends": {one: end for one, end in ends.items() if is_new(one, "consent")},
            "disabled": {one: many for one, many in disabled.items() if is_new(one, "face")},
            "devices": {one: names for one, names in devices.items() if one not in kept},
            "frameless": [one for one in found.frameless if is_new(one, "frames")],
        }
    )


def allowed_at(session: Session) -> dict[tuple[str, str], datetime]:
    """When something was last allowed, by action and subject, as far as the audit log says."""
    row, actions = AuditRecord, ("consent_recorded", "face_enabled", "frames_allowed")
    query = select(row.action, row.subject, func.max(row.at)).where(row.action.in_(actions))
    lines = session.execute(query.group_by(row.action, row.subject))
    return {(action, subject): at for action, subject, at in lines}


def digest_of(device_id: str, public_key: dict[str, Any]) -> str:
    """The device and its key in 128 bits, in hex, so that the file has no names."""
    return _digest([device_id, public_key])


def _digest(content: Any) -> str:
    encoded = json.dumps(content, sort_keys=True).encode()
    return hashlib.sha256(encoded).hexdigest()[:_DIGEST_CHARACTERS]


def _people(session: Session) -> dict[str, RestoredPerson]:
    row, device, devices = SubjectRecord, FaceDeviceRecord, dict[str, set[str]]()
    of_devices = select(device.subject_id, device.device_id, device.public_key)
    for subject_id, device_id, public_key in session.execute(of_devices):
        devices.setdefault(subject_id, set()).add(digest_of(device_id, public_key))
    query = select(row.id, row.updated_at, row.consent, row.face_disabled_at, row.keep_frames)
    return {
        one.id: RestoredPerson(
            changed_at=one.updated_at,
            consent=None if one.consent is None else _digest(one.consent),
            disabled_at=one.face_disabled_at,
            devices=frozenset(devices.get(one.id, ())),
            frames=one.keep_frames,
        )
        for one in session.execute(query)
    }


def _is_complete(session: Session, restored: Restored) -> bool:
    """Whether it is that database, and none of its audit log since was deleted."""
    row = session.get(FaceSettingRecord, _ROW_KEY)
    if row is None or row.value != {"id": restored.id}:
        return False
    if restored.audited is None:
        return True
    number, at = restored.audited
    return session.scalar(select(AuditRecord.at).where(AuditRecord.id == number)) == at


def _decisions(session: Session, restored: Restored) -> dict[str, Counter[str]]:
    """How many times each part of each subject was decided since; of devices, the removals."""
    row, decided = AuditRecord, defaultdict[str, Counter[str]](Counter)
    last = 0 if restored.audited is None else restored.audited[0]
    query = select(row.action, row.subject).where(row.id > last)
    for action, subject in session.execute(query):
        if action in _DECIDES:
            decided[subject][_DECIDES[action]] += 1
    return decided


def _kept(
    before: RestoredPerson, found: RestoredPerson, at: datetime, decided: Mapping[str, int]
) -> Kept:
    """What is as it was, and was not changed and changed back."""
    dates: dict[Part, datetime] = {}
    if before.consent == found.consent and "consent" not in decided:
        dates["consent"] = before.changed_at
    if before.frames == found.frames and "frames" not in decided:
        dates["frames"] = before.changed_at
    if before.disabled_at == found.disabled_at and "face" not in decided:
        dates["face"] = min(before.disabled_at or at, at)
    removed = before.devices - found.devices
    return Kept(
        dates,
        before.devices,
        at,
        added=found.devices - before.devices,
        removed=removed,
        is_removal_unknown=decided.get("devices", 0) > len(removed),
    )

"""What was taken back: revoked keys, removed devices, withdrawn consents, disabled faces.

Also what became stricter, see `database.faces.strictness`.

A restored backup is older than that. `restrictions_of` reads it from the database that is about to
be replaced, and `repeat` and `tighten` do the same in the restored one. `database.taken_back` keeps
it for the restores after that.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict
from sqlalchemy import Engine, inspect, null, or_, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from contracts.audit import Action
from contracts.faces.consent import Consent, Policy
from contracts.faces.subjects import Threshold
from database.audit import COMMAND, record
from database.engine import DamagedDatabaseError, batches, reading, writing
from database.faces.privacy.erasures import erased
from database.faces.strictness import (
    Tightened,
    face_settings,
    forbid_frames,
    frameless,
    tighten_policy,
    tighten_threshold,
)
from database.faces.token_keys import drop_keys, signing_ids
from database.keys import ends_of_keys, forgotten_keys, restrict_keys
from database.tables import (
    AuditRecord,
    FaceDeviceRecord,
    FaceEventRecord,
    FaceFileRecord,
    FaceSettingRecord,
    KeyRecord,
    SubjectRecord,
)

KEYS, DEVICES, STANDINGS = "keys", "devices", "consents and disabled faces"
ERASED = "erased people"
FRAMES, LAXER = "deleted frames", "a laxer policy or threshold of faces"


class Restrictions(BaseModel):
    """What a database no longer allows.

    Attributes:
        keys: The ids of keys that end, and when; None for those that were revoked.
        devices: The devices that each subject still has.
        device_keys: Their public keys, by subject and device; without those in a note of an
            earlier release.
        without_consent: Subjects without one.
        consent_ends: When the consents of others end, if they do.
        disabled: Subjects whose face is disabled, with their failures; 0 if the operator did it.
        erased: Subjects that were erased. In the note of a restore, those that were erased while
            the backup was taken: the others are in the home's list.
        token_keys: The ids of the keys that sign tokens.
        frameless: Subjects whose frames may not be stored.
        policy: The policy of faces, if one was set.
        threshold: The threshold of faces, if one was set.
        lost_datasets: In the note of a restore, see `cli.backup.contents.Header`.
        backup_at: In the note of a restore, when its backup was begun.
        unread: What could not be read, or not all of it: of `KEYS`, `DEVICES` and so on.
    """

    model_config = ConfigDict(frozen=True)

    keys: dict[str, datetime | None] = {}
    devices: dict[str, list[str]] = {}
    device_keys: dict[str, dict[str, dict[str, str]]] = {}
    without_consent: list[str] = []
    consent_ends: dict[str, datetime] = {}
    disabled: dict[str, int] = {}
    erased: list[str] = []
    token_keys: list[str] = []
    frameless: list[str] = []
    policy: Policy | None = None
    threshold: Threshold | None = None
    lost_datasets: list[str] | None = None
    backup_at: AwareDatetime | None = None
    unread: list[str] = []


NOTHING_KNOWN = Restrictions(unread=[KEYS, DEVICES, STANDINGS, ERASED, FRAMES, LAXER])
"""Of a database that does not exist or cannot be read."""


@dataclass(frozen=True, slots=True)
class _Part:
    """What one query reads.

    Attributes:
        name: What is not known if it fails; empty if that does no harm.
        columns: What it needs, by table; the tables of an earlier release lack some of them.
        read: Returns fields of `Restrictions`.
    """

    name: str
    columns: dict[str, set[str]]
    read: Callable[[Session], dict[str, Any]]


def _devices(session: Session) -> dict[str, Any]:
    row = FaceDeviceRecord
    keys: dict[str, dict[str, Any]] = {one: {} for one in session.scalars(select(SubjectRecord.id))}
    query = select(row.subject_id, row.device_id, row.public_key)
    for subject_id, device_id, public_key in session.execute(query):
        keys[subject_id][device_id] = public_key
    return {"devices": {one: list(of) for one, of in keys.items()}, "device_keys": keys}


def _consents(session: Session) -> dict[str, Any]:
    without, ends = list[str](), dict[str, datetime]()
    for subject_id, consent in session.execute(select(SubjectRecord.id, SubjectRecord.consent)):
        if consent is None:
            without.append(subject_id)
        elif (end := Consent.model_validate(consent).expires_at) is not None:
            ends[subject_id] = end
    return {"without_consent": without, "consent_ends": ends}


def _disabled(session: Session) -> dict[str, Any]:
    row = SubjectRecord
    query = select(row.id, row.failures).where(row.face_disabled_at.is_not(None))
    return {"disabled": {one.id: one.failures for one in session.execute(query)}}


_KEYS = {KeyRecord.__tablename__: {"id", "expires_at", "revoked_at"}}
_SUBJECTS = SubjectRecord.__tablename__
_PARTS = (
    _Part(KEYS, _KEYS, lambda session: {"keys": ends_of_keys(session)}),
    _Part(
        KEYS,
        _KEYS | {AuditRecord.__tablename__: {"action", "subject"}},
        lambda session: {"keys": forgotten_keys(session)},
    ),
    _Part(
        DEVICES,
        {
            _SUBJECTS: {"id"},
            FaceDeviceRecord.__tablename__: {"subject_id", "device_id", "public_key"},
        },
        _devices,
    ),
    _Part(STANDINGS, {_SUBJECTS: {"id", "consent"}}, _consents),
    _Part(STANDINGS, {_SUBJECTS: {"id", "face_disabled_at", "failures"}}, _disabled),
    _Part(
        ERASED,
        {FaceEventRecord.__tablename__: {"kind", "subject_id"}},
        lambda session: {"erased": erased(session)},
    ),
    _Part(
        FRAMES,
        {_SUBJECTS: {"id", "keep_frames"}},
        lambda session: {"frameless": frameless(session)},
    ),
    _Part(LAXER, {FaceSettingRecord.__tablename__: {"key", "value"}}, face_settings),
    _Part(
        "",
        {FaceSettingRecord.__tablename__: {"key", "value"}},
        lambda session: {"token_keys": signing_ids(session)},
    ),
)


def restrictions_of(engine: Engine, *, is_known: bool) -> Restrictions:
    """Read them, each from its own columns, so that a fault of one table spares the others.

    Args:
        is_known: Whether the tables are of this release or an earlier one: then nothing can have
            been taken back that a missing column would hold.

    Raises:
        Unavailable: The database does not answer.
    """
    found: dict[str, Any] = {"keys": {}}
    unread = set(NOTHING_KNOWN.unread) if not _is_sound(engine) else set[str]()
    for part in _PARTS:
        try:
            with reading(engine) as session:
                if _has(session, part.columns):
                    values = part.read(session)
                    found |= values | {"keys": found["keys"] | values.get("keys", {})}
                elif not is_known:
                    unread.add(part.name)
        except (SQLAlchemyError, DamagedDatabaseError, ValueError, LookupError, TypeError):
            unread.add(part.name)
    return Restrictions(**found, unread=sorted(unread - {""}))


def _has(session: Session, columns: dict[str, set[str]]) -> bool:
    seen = inspect(session.connection())
    return all(
        seen.has_table(table) and names <= {column["name"] for column in seen.get_columns(table)}
        for table, names in columns.items()
    )


def _is_sound(engine: Engine) -> bool:
    """Whether SQLite finds no damage; a damaged page may hide rows without an error."""
    if engine.dialect.name != "sqlite":
        return True
    try:
        with reading(engine) as session:
            return session.connection().exec_driver_sql("PRAGMA quick_check(1)").scalar() == "ok"
    except (SQLAlchemyError, DamagedDatabaseError):
        return False


def unrepeated(engine: Engine, unread: list[str]) -> list[str]:
    """Those of `unread` of which the restored database holds something that it may now allow.

    Raises:
        Unavailable: The database does not answer.
    """
    subject = select(SubjectRecord.id)
    standing = or_(SubjectRecord.consent.is_not(None), SubjectRecord.face_disabled_at.is_(None))
    holds = {
        KEYS: select(KeyRecord.id).where(KeyRecord.revoked_at.is_(None)),
        DEVICES: select(FaceDeviceRecord.device_id),
        STANDINGS: subject.where(standing),
        ERASED: subject,
        FRAMES: select(FaceFileRecord.id),
        LAXER: subject,
    }
    with reading(engine) as session:
        return [
            name
            for name, query in holds.items()
            if name in unread and session.scalars(query.limit(1)).first() is not None
        ]


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
        dropped = drop_keys(session, restrictions.token_keys, now)
        consents = {*restrictions.without_consent, *restrictions.consent_ends}
        subjects = {*restrictions.devices, *consents, *restrictions.disabled}
        for batch in batches(sorted(subjects)):
            rows = session.scalars(select(SubjectRecord).where(SubjectRecord.id.in_(batch)))
            for row in rows:
                taken += _restricted(session, row, restrictions, now)
        for action, subject in taken:
            record(session, COMMAND, action, subject, now)
    return len(taken) + dropped


def tighten(engine: Engine, restrictions: Restrictions, clock: Callable[[], datetime]) -> Tightened:
    """Let a restored database allow no more of faces than policy, threshold and frames did.

    The files of the frames are the caller's to delete: no subject without `keep_frames` has any.

    Raises:
        Unavailable: The database does not answer.
    """
    now, policy, threshold = clock(), restrictions.policy, restrictions.threshold
    with writing(engine) as session:
        frames = forbid_frames(session, restrictions.frameless)
        settings = [] if policy is None else tighten_policy(session, policy, now)
        values = [] if threshold is None else tighten_threshold(session, threshold, now)
        return Tightened(
            settings=[*settings, *(values or [])],
            frames=frames,
            frameless=frameless(session),
            incomparable=threshold if values is None else None,
        )


def _restricted(
    session: Session, row: SubjectRecord, restrictions: Restrictions, now: datetime
) -> list[tuple[Action, str]]:
    taken: list[tuple[Action, str]] = []
    if row.consent is not None and row.id in restrictions.without_consent:
        row.consent = null()  # not the null of JSON
        taken.append(("consent_withdrawn", row.id))
    end = restrictions.consent_ends.get(row.id)
    if row.consent is not None and end is not None:
        consent = Consent.model_validate(row.consent)
        if not consent.ends_by(end):
            ending = consent.model_copy(update={"expires_at": end})
            row.consent = ending.model_dump(mode="json")
            taken.append(("consent_recorded", row.id))
    if row.face_disabled_at is None and row.id in restrictions.disabled:
        row.face_disabled_at, row.failures = now, restrictions.disabled[row.id]
        taken.append(("face_disabled", row.id))
    if row.id not in restrictions.devices:
        return taken
    query = select(FaceDeviceRecord).where(FaceDeviceRecord.subject_id == row.id)
    keys = restrictions.device_keys.get(row.id, {})
    for device in session.scalars(query):
        is_known = device.device_id in restrictions.devices[row.id]
        if not is_known or keys.get(device.device_id, device.public_key) != device.public_key:
            session.delete(device)
            taken.append(("device_removed", row.id))
    return taken

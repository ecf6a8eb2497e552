"""The policy, the threshold and stored frames, none of which a restored backup may loosen.

Of the policy and the threshold, the stricter value holds, field by field, of databases where they
were set; what was set also replaces the defaults of a database in which nothing was. A subject
whose frames were no longer to be stored keeps none.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from contracts.faces.consent import Policy
from contracts.faces.subjects import Threshold
from database.audit import COMMAND, record
from database.engine import batches
from database.faces import face_policy, face_threshold
from database.tables import FaceFileRecord, FaceSettingRecord, FaceTemplateRecord, SubjectRecord

Setting = TypeVar("Setting", Policy, Threshold)


@dataclass(frozen=True, slots=True)
class Tightened:
    """What was stricter than a restored database.

    Attributes:
        settings: The fields of the policy and of the threshold that changed, with their values.
        frames: How many rows of frames were deleted.
        frameless: The subjects whose frames may not be stored.
        incomparable: The threshold, if it is of another embedder than the restored one.
    """

    settings: list[str]
    frames: int
    frameless: list[str]
    incomparable: Threshold | None


def face_settings(session: Session) -> dict[str, Any]:
    """The fields `policy` and `threshold` of `database.restrictions.Restrictions`.

    Raises:
        ValueError: One of them is damaged.
    """
    return {
        "policy": _setting(session, face_policy.KEY, Policy),
        "threshold": _threshold(session),
    }


def _setting(session: Session, key: str, kind: type[Setting]) -> Setting | None:
    row = session.get(FaceSettingRecord, key)
    return None if row is None else kind.model_validate(row.value)


def _threshold(session: Session) -> Threshold | None:
    """The threshold that was set; restores of earlier releases have stored the default one."""
    found = _setting(session, face_threshold.KEY, Threshold)
    return None if found is None or found.source == "default" else found


def tighten_policy(session: Session, other: Policy, now: datetime) -> list[str]:
    """Let the policy be at least as strict as another; returns the fields that changed."""
    decided = _setting(session, face_policy.KEY, Policy)
    present = decided or Policy()
    failures = other.max_failures
    days = [days for days in (present.retention_days, other.retention_days) if days is not None]
    strict: dict[str, Any] = {
        "consent_required": present.consent_required or other.consent_required,
        "device_key_required": present.device_key_required or other.device_key_required,
        "liveness_required": present.liveness_required or other.liveness_required,
        # The other defaults are the laxest values, this one is the strictest.
        "max_failures": failures if decided is None else min(failures, decided.max_failures),
        "retention_days": min(days, default=None),
    }
    if strict["retention_days"] != present.retention_days:
        strict["retention_text"] = other.retention_text  # it says how long
    changed = {name: value for name, value in strict.items() if value != getattr(present, name)}
    if changed:
        policy = present.model_copy(update=changed | {"updated_at": now})
        _set(session, face_policy.KEY, policy, now)
        subject = policy.model_dump_json(exclude={"updated_at"})
        record(session, COMMAND, "face_policy_set", subject, now)
    return [
        name if name == "retention_text" else f"{name} {json.dumps(value)}"
        for name, value in changed.items()
    ]


def tighten_threshold(session: Session, other: Threshold, now: datetime) -> list[str] | None:
    """Let the threshold be at least as strict as another: a higher similarity, a larger margin.

    Where none was set, the other one is.

    Returns:
        The fields that changed; None if the two are of different embedders, whose similarities
        cannot be compared: then nothing has changed.
    """
    present = _threshold(session)
    if present is None:
        changed, strict = ["similarity", "margin"], other.model_copy(update={"updated_at": now})
    elif None not in {present.embedder, other.embedder} and present.embedder != other.embedder:
        return None
    else:
        strict = other if other.similarity > present.similarity else present
        margin = max(present.margin, other.margin)
        strict = strict.model_copy(update={"margin": margin, "updated_at": now})
        names = ("similarity", "margin")
        changed = [name for name in names if getattr(strict, name) != getattr(present, name)]
    if changed:
        _set(session, face_threshold.KEY, strict, now)
        subject = f"{strict.similarity:g}, margin {strict.margin:g} ({strict.source})"
        record(session, COMMAND, "face_threshold_set", subject, now)
    return [f"{name} {getattr(strict, name):g}" for name in changed]


def _set(session: Session, key: str, value: Policy | Threshold, now: datetime) -> None:
    session.merge(FaceSettingRecord(key=key, value=value.model_dump(mode="json"), updated_at=now))


def frameless(session: Session) -> list[str]:
    """The subjects whose frames may not be stored."""
    return list(session.scalars(select(SubjectRecord.id).where(~SubjectRecord.keep_frames)))


def forbid_frames(session: Session, ids: Collection[str]) -> int:
    """Store no frames of these subjects any more; returns how many rows of frames were deleted.

    The rows of all frames that no longer may be stored are deleted; their files are the caller's.
    """
    row, template, file = SubjectRecord, FaceTemplateRecord, FaceFileRecord
    for batch in batches(ids):
        stored = update(row).where(row.id.in_(batch), row.keep_frames)
        session.connection().execute(stored.values(keep_frames=False))
    of_frameless = select(row.id).where(~row.keep_frames)
    named = template.file_id.is_not(None) & template.subject_id.in_(of_frameless)
    connection = session.connection()
    connection.execute(update(template).where(named).values(file_id=None))
    return connection.execute(delete(file).where(file.subject_id.in_(of_frameless))).rowcount

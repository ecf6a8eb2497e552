"""What was taken back, in a file of the home that no restore replaces.

After the restore of an old backup, such as the wrong one, the database knows nothing of a key or
person that is newer than that backup. If a newer backup is restored next, only this file knows that
the key was revoked. Each restore adds to it what it reads from the database that it replaces, which
replaces what was known of the same people: they may have consented again.
"""

import hashlib
import json
import os
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, model_validator
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from contracts.faces.consent import Policy
from contracts.faces.subjects import Threshold
from database.engine import batches, reading
from database.faces.strictness import Setting, face_settings
from database.restrictions import FRAMES, STANDINGS, Restrictions
from database.tables import FaceDeviceRecord, SubjectRecord

FILE = "taken-back.json"
_DIGEST_CHARACTERS = 32
_MAX_THRESHOLDS = 16


class Person(BaseModel):
    """What one subject was allowed at a moment.

    Attributes:
        at: The moment. What was allowed later still is.
        consent: Whether it had one.
        consent_end: When that ended, if it did.
        failures: If its face was disabled, its failures; 0 if the operator did it.
        devices: Digests of its devices with their public keys; None if they could not be read.
        frames: Whether its frames could be stored.
    """

    model_config = ConfigDict(frozen=True)

    at: AwareDatetime
    consent: bool = True
    consent_end: AwareDatetime | None = None
    failures: int | None = None
    devices: tuple[str, ...] | None = None
    frames: bool = True


class TakenBack(BaseModel):
    """The content of the file: one entry for each key that ends and each person, by id.

    Attributes:
        keys: When they end; None for those that were revoked.
        policy: The last policy of faces that was read.
        thresholds: The last threshold of each embedder, the newest last.
    """

    model_config = ConfigDict(frozen=True)

    keys: dict[str, AwareDatetime | None] = {}
    people: dict[str, Person] = {}
    policy: Policy | None = None
    thresholds: tuple[Threshold, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _of_earlier_releases(cls, content: Any) -> Any:
        """They kept only the last threshold."""
        if isinstance(content, dict) and content.get("threshold") is not None:
            return {"thresholds": [content["threshold"]]} | content
        return content

    def merged(self, found: Restrictions, now: datetime, erased: Collection[str]) -> "TakenBack":
        """This and what a database knows, without erased people."""
        keys = self.keys | {
            key_id: _earlier(self.keys.get(key_id, end), end) for key_id, end in found.keys.items()
        }
        people = {one: of for one, of in self.people.items() if one not in erased}
        without, disabled = set(found.without_consent), found.disabled
        no_frames = set(found.frameless)
        for one in {
            *found.devices,
            *without,
            *found.consent_ends,
            *disabled,
            *no_frames,
        }.difference(erased):
            before = people.get(one, Person(at=now))
            is_unread = STANDINGS in found.unread
            people[one] = Person(
                at=now,
                consent=one not in without and (before.consent or not is_unread),
                consent_end=found.consent_ends.get(one, before.consent_end if is_unread else None),
                failures=disabled.get(one, before.failures if is_unread else None),
                devices=_digests(found, one) if one in found.devices else before.devices,
                frames=one not in no_frames and (before.frames or FRAMES not in found.unread),
            )
        return TakenBack(
            keys=keys,
            people=people,
            policy=found.policy or self.policy,
            thresholds=_with(self.thresholds, found.threshold),
        )

    def applying_to(self, engine: Engine, token_keys: list[str]) -> Restrictions:
        """What applies to a restored database: of people, what is not older than its rows.

        Args:
            token_keys: Those that may sign.

        Raises:
            Unavailable: The database does not answer.
        """
        with reading(engine) as session:
            restored = face_settings(session)
            found = Restrictions(
                keys=self.keys,
                token_keys=token_keys,
                policy=_unless_older(self.policy, restored["policy"]),
                threshold=_unless_older(
                    _comparable(self.thresholds, restored["threshold"]), restored["threshold"]
                ),
            )
            for batch in batches(sorted(self.people)):
                self._add(session, batch, found)
        return found

    def _add(self, session: Session, batch: Collection[str], found: Restrictions) -> None:
        row, device = SubjectRecord, FaceDeviceRecord
        query = select(row.id, row.updated_at, row.last_used_at).where(row.id.in_(batch))
        for subject_id, updated_at, last_used_at in session.execute(query):
            person = self.people[subject_id]
            if updated_at <= person.at:
                _add_refusals(person, subject_id, found)
            # A match enables a face again that was disabled for its failures.
            is_later = max(updated_at, last_used_at or updated_at) > person.at
            if person.failures is not None and not is_later:
                found.disabled[subject_id] = person.failures
            if person.devices is not None:
                found.devices[subject_id] = []
        for one in session.scalars(select(device).where(device.subject_id.in_(batch))):
            person = self.people[one.subject_id]
            is_known = digest_of(one.device_id, one.public_key) in (person.devices or ())
            if person.devices is not None and (is_known or one.created_at > person.at):
                found.devices[one.subject_id].append(one.device_id)


def read_taken_back(home: Path) -> TakenBack:
    """Read the file; empty if there is none.

    Raises:
        OSError: It cannot be read.
        ValueError: It is damaged.
    """
    try:
        content = (home / FILE).read_bytes()
    except FileNotFoundError:
        return TakenBack()
    return TakenBack.model_validate_json(content)


def write_taken_back(home: Path, taken_back: TakenBack) -> None:
    """Replace the file in one step, and flush it to the disk.

    Raises:
        OSError: It cannot be written; the previous one is as it was.
    """
    part = home / f".{FILE}.part"
    part.unlink(missing_ok=True)
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(taken_back.model_dump_json(exclude_defaults=True, ensure_ascii=True))
            file.flush()
            os.fsync(file.fileno())
        part.replace(home / FILE)
    finally:
        part.unlink(missing_ok=True)
    folder = os.open(home, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def digest_of(device_id: str, public_key: dict[str, Any]) -> str:
    """The device and its key in 128 bits, in hex, so that the file has no names."""
    content = json.dumps([device_id, public_key], sort_keys=True).encode()
    return hashlib.sha256(content).hexdigest()[:_DIGEST_CHARACTERS]


def _digests(found: Restrictions, subject_id: str) -> tuple[str, ...]:
    keys = found.device_keys[subject_id]
    return tuple(digest_of(one, keys[one]) for one in found.devices[subject_id])


def _add_refusals(person: Person, subject_id: str, found: Restrictions) -> None:
    if not person.consent:
        found.without_consent.append(subject_id)
    elif person.consent_end is not None:
        found.consent_ends[subject_id] = person.consent_end
    if not person.frames:
        found.frameless.append(subject_id)


def _with(noted: tuple[Threshold, ...], found: Threshold | None) -> tuple[Threshold, ...]:
    """With the one found, which replaces that of its embedder and that of an unknown one."""
    if found is None:
        return noted
    others = (one for one in noted if one.embedder not in {found.embedder, None})
    return (*others, found)[-_MAX_THRESHOLDS:]


def _comparable(noted: tuple[Threshold, ...], restored: Threshold | None) -> Threshold | None:
    """The newest that can be compared with the restored one, or else the newest."""
    embedder = restored.embedder if restored is not None else None
    for one in reversed(noted):
        if embedder is None or one.embedder in {embedder, None}:
            return one
    return noted[-1] if noted else None


def _unless_older(noted: Setting | None, restored: Setting | None) -> Setting | None:
    """What was noted, unless it is older than what was restored."""
    oldest = datetime.min.replace(tzinfo=UTC)
    if noted is None or restored is None:
        return noted
    return None if (restored.updated_at or oldest) > (noted.updated_at or oldest) else noted


def _earlier(one: datetime | None, other: datetime | None) -> datetime | None:
    return None if one is None or other is None else min(one, other)

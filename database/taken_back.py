"""What was taken back, in a file of the home that no restore replaces.

After the restore of an old backup, such as the wrong one, the database knows nothing of a key or
person that is newer than that backup. If a newer backup is restored next, only this file knows that
the key was revoked. Each restore adds to it what it reads from the database that it replaces. What
was decided there replaces what was known of the same people: they may have consented again. What
only came from a backup is as old as that (`database.restored`), so that the later of the two holds.
"""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, model_validator
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from contracts.faces.consent import Policy
from contracts.faces.subjects import Threshold
from contracts.files import write_durably
from database.engine import batches, reading
from database.faces.strictness import Setting, face_settings
from database.restored import Kept, Part, Restored, allowed_at, digest_of
from database.restrictions import FRAMES, STANDINGS, Restrictions
from database.tables import FaceDeviceRecord, SubjectRecord

FILE = "taken-back.json"
_MAX_THRESHOLDS = 16
_OTHERS = "*"
_FIELDS: dict[Part, tuple[str, ...]] = {
    "consent": ("consent", "consent_end"),
    "face": ("failures",),
    "frames": ("frames",),
}


class Person(BaseModel):
    """What one subject was allowed at a moment.

    Attributes:
        at: The moment. What was allowed later still is.
        dates: The moments of the parts that are of another one.
        consent: Whether it had one.
        consent_end: When that ended, if it did.
        failures: If its face was disabled, its failures; 0 if the operator did it.
        devices: Digests of its devices with their public keys; None if they could not be read.
        removed: Digests of removed devices that may be newer than `devices` is, and when they were;
            `_OTHERS` for all that are not in `devices`.
        frames: Whether its frames could be stored.
    """

    model_config = ConfigDict(frozen=True)

    at: AwareDatetime
    dates: dict[Part, AwareDatetime] = {}
    consent: bool = True
    consent_end: AwareDatetime | None = None
    failures: int | None = None
    devices: tuple[str, ...] | None = None
    removed: dict[str, AwareDatetime] = {}
    frames: bool = True

    def date(self, part: Part) -> datetime:
        """The moment of a part."""
        return self.dates.get(part, self.at)

    def has(self, device: str, created_at: datetime) -> bool:
        """Whether a device, by its digest, was not removed, if all was known of its devices."""
        removed = self.removed.get(device)
        if removed is not None and created_at <= removed:
            return False
        known_at = max(self.date("devices"), self.removed.get(_OTHERS, self.date("devices")))
        return device in (self.devices or ()) or created_at > known_at


class TakenBack(BaseModel):
    """The content of the file: one entry for each key that ends and each person, by id.

    Attributes:
        keys: When they end; None for those that were revoked.
        policy: The last policy of faces that was read.
        thresholds: The last threshold of each embedder, the newest last.
        restored: The database that the last restore made.
    """

    model_config = ConfigDict(frozen=True)

    keys: dict[str, AwareDatetime | None] = {}
    people: dict[str, Person] = {}
    policy: Policy | None = None
    thresholds: tuple[Threshold, ...] = ()
    restored: Restored | None = None

    @model_validator(mode="before")
    @classmethod
    def _of_earlier_releases(cls, content: Any) -> Any:
        """They kept only the last threshold."""
        if isinstance(content, dict) and content.get("threshold") is not None:
            return {"thresholds": [content["threshold"]]} | content
        return content

    def merged(
        self,
        found: Restrictions,
        now: datetime,
        erased: Collection[str],
        kept: Mapping[str, Kept] | None = None,
    ) -> "TakenBack":
        """This and what a database knows, without erased people.

        Args:
            kept: What came from a backup and has not changed there, by subject. Empty if that is
                unknown, or if not all of the database could be read.
        """
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
            read = Person(
                at=now,
                consent=one not in without and (before.consent or not is_unread),
                consent_end=found.consent_ends.get(one, before.consent_end if is_unread else None),
                failures=disabled.get(one, before.failures if is_unread else None),
                devices=_digests(found, one) if one in found.devices else before.devices,
                frames=one not in no_frames and (before.frames or FRAMES not in found.unread),
            )
            of_backup = (kept or {}).get(one)
            people[one] = read if of_backup is None else _later(people.get(one), read, of_backup)
        return TakenBack(
            keys=keys,
            people=people,
            policy=found.policy or self.policy,
            thresholds=_with(self.thresholds, found.threshold),
            restored=_without(self.restored, erased),
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
            allowed = allowed_at(session)
            for batch in batches(sorted(self.people)):
                self._add(session, batch, allowed, found)
        return found

    def _add(
        self,
        session: Session,
        batch: Collection[str],
        allowed: Mapping[tuple[str, str], datetime],
        found: Restrictions,
    ) -> None:
        row, device = SubjectRecord, FaceDeviceRecord
        query = select(row.id, row.updated_at, row.last_used_at).where(row.id.in_(batch))
        for subject_id, updated_at, last_used_at in session.execute(query):
            person = self.people[subject_id]
            if allowed.get(("consent_recorded", subject_id), updated_at) <= person.date("consent"):
                _add_consent(person, subject_id, found)
            frames_at = allowed.get(("frames_allowed", subject_id), updated_at)
            if not person.frames and frames_at <= person.date("frames"):
                found.frameless.append(subject_id)
            # A match enables a face again that was disabled for its failures.
            enabled_at = allowed.get(("face_enabled", subject_id), updated_at)
            is_later = max(enabled_at, last_used_at or enabled_at) > person.date("face")
            if person.failures is not None and not is_later:
                found.disabled[subject_id] = person.failures
            if person.devices is not None:
                found.devices[subject_id] = []
        for one in session.scalars(select(device).where(device.subject_id.in_(batch))):
            person = self.people[one.subject_id]
            digest = digest_of(one.device_id, one.public_key)
            if person.devices is not None and person.has(digest, one.created_at):
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
    text = taken_back.model_dump_json(exclude_defaults=True, ensure_ascii=True)
    write_durably(home / FILE, text.encode())


def _digests(found: Restrictions, subject_id: str) -> tuple[str, ...]:
    keys = found.device_keys[subject_id]
    return tuple(digest_of(one, keys[one]) for one in found.devices[subject_id])


def _add_consent(person: Person, subject_id: str, found: Restrictions) -> None:
    if not person.consent:
        found.without_consent.append(subject_id)
    elif person.consent_end is not None:
        found.consent_ends[subject_id] = person.consent_end


def _later(before: Person | None, read: Person, kept: Kept) -> Person:
    """What was read of a person, but of the parts that a backup decided, what was known later."""
    values = read.model_dump(exclude={"dates"})
    dates: dict[Part, datetime] = {part: kept.dates.get(part, read.at) for part in _FIELDS}
    dates["devices"] = kept.devices_at
    known: dict[Part, datetime] = {part: before.date(part) for part in dates} if before else {}
    for part, fields in _FIELDS.items():
        if before is not None and part in kept.dates and known[part] >= dates[part]:
            values |= {name: getattr(before, name) for name in fields}
            dates[part] = known[part]
    devices, removed = kept.devices, dict[str, datetime]()
    if before is not None and before.devices is not None:
        removed = {one: at for one, at in before.removed.items() if one not in kept.added}
        if known["devices"] >= kept.devices_at:
            devices, dates["devices"] = frozenset(before.devices), known["devices"]
    removed |= dict.fromkeys(kept.removed, read.at)
    if kept.is_removal_unknown:  # it may be any that is not there now
        devices, removed[_OTHERS] = devices & kept.devices, read.at
    values["devices"] = tuple(sorted((devices | kept.added) - kept.removed))
    values["removed"] = dict(sorted(removed.items()))
    others = {part: at for part, at in dates.items() if at != read.at}
    return Person(**values, dates=others)


def _without(restored: Restored | None, erased: Collection[str]) -> Restored | None:
    if restored is None:
        return None
    people = {one: of for one, of in restored.people.items() if one not in erased}
    return restored.model_copy(update={"people": people})


def _with(noted: tuple[Threshold, ...], found: Threshold | None) -> tuple[Threshold, ...]:
    """With the one found, which replaces that of its embedder and that of an unknown one."""
    if found is None:
        return noted
    others = (one for one in noted if one.embedder not in {found.embedder, None})
    return (*others, found)[-_MAX_THRESHOLDS:]


def _comparable(noted: tuple[Threshold, ...], restored: Threshold | None) -> Threshold | None:
    """The newest that can be compared with the restored one, or else the newest."""
    embedder = restored.embedder if restored is not None else None
    # Restores of earlier releases have noted the default one, which nobody has decided.
    decided = [one for one in reversed(noted) if one.source != "default"]
    for one in decided:
        if embedder is None or one.embedder in {embedder, None}:
            return one
    return decided[0] if decided else None


def _unless_older(noted: Setting | None, restored: Setting | None) -> Setting | None:
    """What was noted, unless it is older than what was restored."""
    oldest = datetime.min.replace(tzinfo=UTC)
    if noted is None or restored is None:
        return noted
    return None if (restored.updated_at or oldest) > (noted.updated_at or oldest) else noted


def _earlier(one: datetime | None, other: datetime | None) -> datetime | None:
    return None if one is None or other is None else min(one, other)

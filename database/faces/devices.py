"""Devices that subjects log in with, by their public keys."""

from collections.abc import Callable
from datetime import datetime

from sqlalchemy import Engine, delete, func, select, update
from sqlalchemy.orm import Session

from contracts.errors import Conflict, NotFound
from contracts.faces.devices import MAX_DEVICES, Device, canonical_key
from contracts.names import composed
from database.audit import COMMAND, Actor, record
from database.engine import reading, writing
from database.faces.privacy.erasures import device_scope
from database.faces.template_rows import find_subject
from database.idempotency import IdempotencyKey, StoredResponse, lookup, remember
from database.tables import FaceDeviceRecord


class FaceDevices:
    """The table of devices. Raises `Unavailable` if the database does not answer."""

    def __init__(self, engine: Engine, clock: Callable[[], datetime]) -> None:
        self._engine = engine
        self._clock = clock

    def add(
        self,
        subject_id: str,
        device_id: str,
        public_key: dict[str, str],
        *,
        key: str | None = None,
        digest: str = "",
    ) -> Device:
        """Register a device; registering the same key again changes nothing.

        Args:
            subject_id: Whose device it is.
            device_id: Its name, unique for the subject.
            public_key: Its JWK, checked.
            key: The client's `Idempotency-Key`. A device that was removed since its first request
                does not come back by a repetition.
            digest: Keyed digest of the request, if there is a key.

        Raises:
            SubjectNotFound: There is no such subject.
            Conflict: It is registered with another key, or there are too many.
            IdempotencyConflict: The key was used for another request.
        """
        now = self._clock()
        repeated = IdempotencyKey(key, device_scope(subject_id), digest) if key else None
        with writing(self._engine) as session:
            find_subject(session, subject_id, locked=True)
            if repeated and (earlier := lookup(session, repeated, now)):
                return Device.model_validate(earlier.body)
            device = _registered(session, subject_id, device_id, public_key, now)
            if repeated:
                body = {"id": subject_id} | device.model_dump(mode="json")
                remember(session, repeated, StoredResponse(201, body), now)
            return device

    def list(self, subject_id: str) -> list[Device]:
        """The devices of a subject, oldest first.

        Raises:
            SubjectNotFound: There is no such subject.
        """
        row = FaceDeviceRecord
        query = select(row).where(row.subject_id == subject_id)
        with reading(self._engine) as session:
            find_subject(session, subject_id)
            rows = session.scalars(query.order_by(row.created_at, row.device_id))
            return [_device(found) for found in rows]

    def find(self, subject_id: str, device_id: str) -> Device | None:
        """One device of a subject; None if it is not registered."""
        with reading(self._engine) as session:
            row = session.get(FaceDeviceRecord, (subject_id, device_id))
            return None if row is None else _device(row)

    def record_use(self, subject_id: str, device_id: str) -> None:
        """Record that a device has signed a login."""
        row = FaceDeviceRecord
        used = update(row).where(row.subject_id == subject_id, row.device_id == device_id)
        with writing(self._engine) as session:
            session.execute(used.values(last_used_at=self._clock()))

    def remove(self, subject_id: str, device_id: str, *, actor: Actor = COMMAND) -> None:
        """Remove a device, whose signatures count no longer. The audit log has it.

        Earlier releases stored ids that were not composed.

        Raises:
            SubjectNotFound: There is no such subject.
            NotFound: It is not registered.
        """
        row, spellings = FaceDeviceRecord, {device_id, composed(device_id)}
        found = delete(row).where(row.subject_id == subject_id, row.device_id.in_(spellings))
        with writing(self._engine) as session:
            find_subject(session, subject_id)
            if session.scalar(found.returning(row.device_id)) is None:
                raise NotFound("The subject has no such device.")
            record(session, actor, "device_removed", subject_id, self._clock())


def _device(row: FaceDeviceRecord) -> Device:
    return Device.model_validate(row, from_attributes=True)


def _registered(
    session: Session, subject_id: str, device_id: str, public_key: dict[str, str], now: datetime
) -> Device:
    row = FaceDeviceRecord
    existing = session.get(row, (subject_id, device_id))
    if existing is not None:
        if canonical_key(existing.public_key) != canonical_key(public_key):
            raise Conflict(
                "The device is registered with another key. Delete it first, if that was "
                "replaced on purpose."
            )
        return _device(existing)
    count = select(func.count()).where(row.subject_id == subject_id)
    if session.scalars(count).one() >= MAX_DEVICES:
        raise Conflict(f"A subject has at most {MAX_DEVICES} devices. Delete one first.")
    added = row(subject_id=subject_id, device_id=device_id, public_key=public_key, created_at=now)
    session.add(added)
    session.flush()
    return _device(added)

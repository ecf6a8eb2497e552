"""Consent, failures, last use, devices and the policy, in a real database."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from contracts.errors import Conflict, NotFound, SubjectNotFound, ValidationFailed
from contracts.faces.consent import Consent, NewConsent, NewPolicy
from contracts.faces.devices import MAX_DEVICES
from contracts.faces.subjects import NewSubject, SubjectChange
from contracts.settings import Settings
from database.faces.repositories import FaceRepositories
from tests.database.conftest import Clock
from tests.database.faces.test_faces import NET, template

KEY = {"kty": "EC", "crv": "P-256", "x": "a", "y": "b"}


@pytest.fixture
def faces(engine: Engine, clock: Clock, tmp_path: Path) -> FaceRepositories:
    return open_faces(engine, clock, tmp_path)


def open_faces(engine: Engine, clock: Clock, home: Path, **settings: Any) -> FaceRepositories:
    return FaceRepositories.of(Settings(_env_file=None, home=home, **settings), engine, clock)


def add(faces: FaceRepositories, name: str = "Ada", **more: Any) -> str:
    return str(faces.subjects.create(NewSubject(name=name, **more))["id"])


def test_consent_is_stored_changed_and_withdrawn(faces: FaceRepositories, clock: Clock) -> None:
    ends = clock.now + timedelta(days=1)
    ada = add(faces, consent=NewConsent(version="1", text_digest="ab", by="desk", expires_at=ends))
    expected = Consent(version="1", text_digest="ab", at=clock.now, by="desk", expires_at=ends)
    assert faces.subjects.get(ada).consent == expected
    assert faces.standings.get(ada).consent == expected
    assert expected.in_force(clock.now)
    assert not expected.in_force(ends)
    faces.subjects.change(ada, SubjectChange(name="Ada L."))
    assert faces.subjects.get(ada).consent == expected
    changed = faces.subjects.change(ada, SubjectChange(consent=None))
    assert changed.consent is None
    with pytest.raises(ValueError, match="after at"):
        NewConsent(version="1", text_digest="a", at=ends, expires_at=clock.now.astimezone())


def test_a_consent_of_the_future_and_an_expired_one_are_refused(
    faces: FaceRepositories, clock: Clock
) -> None:
    ada, minute = add(faces), timedelta(minutes=1)
    early = NewConsent(version="1", text_digest="a", at=clock.now + minute + timedelta(seconds=1))
    expired = NewConsent(version="1", text_digest="a", expires_at=clock.now)
    for consent, detail in ((early, "in the future"), (expired, "has passed")):
        with pytest.raises(ValidationFailed, match=detail):
            add(faces, "Bea", consent=consent)
        with pytest.raises(ValidationFailed, match=detail):
            faces.subjects.change(ada, SubjectChange(consent=consent))
    assert faces.subjects.get(ada).consent is None
    stored = Consent(version="1", text_digest="a", at=clock.now + timedelta(days=1))
    assert not stored.in_force(clock.now), "an earlier release accepted it"
    ahead = NewConsent(version="1", text_digest="a", at=clock.now + minute)
    add(faces, "Bea", consent=ahead)
    assert ahead.given(clock.now).in_force(clock.now), "a client's clock may be ahead"
    past = NewConsent(
        version="1", text_digest="a", at=clock.now - 2 * minute, expires_at=clock.now - minute
    )
    assert not past.given(clock.now).in_force(clock.now)


def test_failures_in_a_row_disable_the_face(faces: FaceRepositories, clock: Clock) -> None:
    ada, bea = add(faces), add(faces, "Bea")
    assert [faces.standings.record_failure(ada, 3) for _ in range(2)] == [False, False]
    faces.standings.record_match(ada)  # ends the row
    assert [faces.standings.record_failure(ada, 3) for _ in range(3)] == [False, False, True]
    assert faces.standings.get(ada).disabled
    assert faces.subjects.get(ada).face_disabled
    assert {one: standing.disabled for one, standing in faces.standings.of([ada, bea]).items()} == {
        ada: True,
        bea: False,
    }
    assert not faces.subjects.change(ada, SubjectChange(face_disabled=False)).face_disabled
    assert not faces.standings.record_failure(ada, 3), "it counts from the beginning"
    assert not faces.standings.record_failure("sub_nobody", 1)


def test_a_match_enables_what_failures_disabled_and_not_what_the_operator_did(
    faces: FaceRepositories,
) -> None:
    ada = add(faces)
    faces.standings.record_failure(ada, 1)
    assert not faces.standings.get(ada).by_operator
    faces.standings.record_match(ada)
    assert not faces.standings.get(ada).disabled
    faces.standings.record_failure(ada, 1)
    faces.subjects.change(ada, SubjectChange(face_disabled=True))
    faces.standings.record_match(ada)  # of a login that had begun before
    assert faces.standings.get(ada).disabled
    assert faces.standings.get(ada).by_operator


def test_a_failure_that_ends_after_the_operator_has_disabled_the_face_changes_nothing(
    faces: FaceRepositories,
) -> None:
    ada = add(faces)
    faces.subjects.change(ada, SubjectChange(face_disabled=True))
    assert not faces.standings.record_failure(ada, 3)  # of a login that had begun before
    assert faces.standings.get(ada).by_operator
    faces.standings.record_match(ada)  # with a device's signature
    assert faces.standings.get(ada).disabled


def test_who_is_identified_was_used_and_stays_disabled(
    faces: FaceRepositories, clock: Clock
) -> None:
    ada, bea = add(faces), add(faces, "Bea")
    faces.standings.record_failure(ada, 1)
    clock.advance(3 * 86_400)
    faces.standings.record_uses({ada, "sub_nobody"})
    assert faces.subjects.get(ada).last_used_at == clock.now
    assert faces.standings.get(ada).disabled
    assert faces.standings.unused(2, limit=9) == [bea]
    assert faces.standings.unused(2, limit=9, only=ada) == []
    used = clock.now
    clock.advance(3000)
    faces.standings.record_uses([ada])
    assert faces.subjects.get(ada).last_used_at == used, "to an hour"


def test_the_last_use_is_known_to_an_hour(faces: FaceRepositories, clock: Clock) -> None:
    ada = add(faces)
    assert faces.subjects.get(ada).last_used_at is None
    faces.standings.record_match(ada)
    first = clock.now
    clock.advance(3000)
    faces.standings.record_match(ada)
    assert faces.subjects.get(ada).last_used_at == first
    clock.advance(3000)
    faces.standings.record_match(ada)
    assert faces.subjects.get(ada).last_used_at == clock.now
    clock.advance(9)
    faces.templates.add(ada, [template()], embedder=NET)
    assert faces.subjects.get(ada).last_used_at == clock.now


def test_unused_are_those_neither_used_nor_changed(faces: FaceRepositories, clock: Clock) -> None:
    never, used, changed = add(faces, "Never"), add(faces, "Used"), add(faces, "Changed")
    clock.advance(2 * 86_400)
    faces.standings.record_match(used)
    faces.subjects.change(changed, SubjectChange(metadata={"a": 1}))
    add(faces, "New")
    assert faces.standings.unused(2, limit=9) == []
    clock.advance(1)
    assert faces.standings.unused(2, limit=9) == [never]
    clock.advance(3 * 86_400)
    assert set(faces.standings.unused(2, limit=2)) == {never, changed}


def test_devices_are_registered_found_and_removed(faces: FaceRepositories, clock: Clock) -> None:
    ada = add(faces)
    added = faces.devices.add(ada, "phone", KEY)
    assert (added.device_id, added.public_key, added.last_used_at) == ("phone", KEY, None)
    assert faces.devices.add(ada, "phone", KEY) == added
    with pytest.raises(Conflict, match="another key"):
        faces.devices.add(ada, "phone", KEY | {"x": "c"})
    faces.devices.record_use(ada, "phone")
    found = faces.devices.find(ada, "phone")
    assert found is not None
    assert found.last_used_at == clock.now
    assert faces.devices.find(ada, "tablet") is None
    assert faces.devices.list(ada) == [found]
    faces.devices.remove(ada, "phone")
    with pytest.raises(NotFound):
        faces.devices.remove(ada, "phone")
    with pytest.raises(SubjectNotFound):
        faces.devices.add("sub_nobody", "phone", KEY)
    for number in range(MAX_DEVICES):
        faces.devices.add(ada, f"phone-{number}", KEY)
    with pytest.raises(Conflict, match="at most"):
        faces.devices.add(ada, "one-more", KEY)


def test_an_erasure_deletes_devices(faces: FaceRepositories) -> None:
    ada = add(faces)
    faces.devices.add(ada, "phone", KEY)
    faces.subjects.erase(ada)
    assert faces.devices.find(ada, "phone") is None


def test_a_policy_never_weakens_the_settings(
    engine: Engine, clock: Clock, tmp_path: Path, faces: FaceRepositories
) -> None:
    assert (faces.policy.get().consent_required, faces.policy.get().retention_days) == (False, None)
    stored = faces.policy.set(NewPolicy(retention_days=100, max_failures=10))
    assert (stored.retention_days, stored.updated_at) == (100, clock.now)
    assert faces.policy.get() == stored
    strict = open_faces(
        engine, clock, tmp_path, face_consent_required=True, face_retention_days=30
    ).policy
    policy = strict.get()
    assert (policy.consent_required, policy.retention_days) == (True, 30)
    assert strict.set(NewPolicy(retention_days=7)).retention_days == 7
    assert strict.set(NewPolicy()).retention_days == 30

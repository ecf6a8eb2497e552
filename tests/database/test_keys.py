"""Keys in a real database: what is stored of them, and what ends them."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, event, text

from contracts.errors import Conflict, IdempotencyConflict, NotFound, ValidationFailed
from contracts.keys import KEY_PATTERN, NewKey
from database.audit import Actor, Audit
from database.idempotency import IdempotencyKey
from database.keys import Keys, KeySnapshot, digest_of
from tests.database.conftest import Clock

WHO = Actor("key_000000000000", "r1")
NEW = NewKey(name="billing", scopes=["train", "infer"], rate_per_minute=60)


@pytest.fixture
def keys(engine: Engine, clock: Clock) -> Keys:
    return Keys(engine, clock)


@pytest.fixture
def audit(engine: Engine, clock: Clock) -> Audit:
    return Audit(engine, clock)


def now(keys: Keys) -> KeySnapshot:
    found = keys.snapshot()
    assert found is not None
    return found


def test_only_a_hash_is_stored(keys: Keys, engine: Engine) -> None:
    made = keys.create(NEW, actor=WHO)
    assert made.key is not None
    match = KEY_PATTERN.fullmatch(made.key)
    assert match is not None
    assert made.id == f"key_{match[1]}"
    assert len(bytes.fromhex(match[2])) * 8 >= 160
    assert now(keys).keys[made.id].digest == digest_of(made.key)
    with engine.connect() as connection:
        tables = ("api_keys", "audit", "idempotency")
        rows = [str(connection.execute(text(f"SELECT * FROM {one}")).all()) for one in tables]
    assert match[2] not in "".join(rows)
    assert made.scopes == ["infer", "train"]


def test_two_keys_share_nothing(keys: Keys) -> None:
    first, second = keys.create(NEW, actor=WHO), keys.create(NEW, actor=WHO)
    assert first.id != second.id
    assert str(first.key)[19:] != str(second.key)[19:]


def test_a_revoked_key_is_still_listed(keys: Keys, clock: Clock) -> None:
    made = keys.create(NEW, actor=WHO)
    clock.advance(5)
    keys.revoke(made.id, actor=WHO)
    keys.revoke(made.id, actor=WHO)
    assert now(keys).keys == {}
    assert now(keys).ever_created == 1
    (listed,) = keys.list().items
    assert listed.revoked_at == clock.now
    with pytest.raises(NotFound):
        keys.revoke("key_ffffffffffff", actor=WHO)


def test_every_change_increments_the_revision(keys: Keys) -> None:
    seen = [now(keys).revision]
    made = keys.create(NEW, actor=WHO)
    seen.append(now(keys).revision)
    keys.rotate(made.id, timedelta(hours=1), actor=WHO)
    seen.append(now(keys).revision)
    keys.revoke(made.id, actor=WHO)
    seen.append(now(keys).revision)
    keys.record_use({made.id: made.created_at})
    assert keys.snapshot(seen[-1]) is None
    keys.reopen(actor=WHO)
    seen.append(now(keys).revision)
    numbers, lines, _ = zip(*seen, strict=True)
    assert list(numbers) == sorted(set(numbers))
    assert len(set(lines)) == len(seen)  # by which the numbers of two histories differ


def test_a_rotated_key_expires_after_the_grace_period(keys: Keys, clock: Clock) -> None:
    old = keys.create(NEW, actor=WHO)
    new = keys.rotate(old.id, timedelta(hours=1), actor=WHO)
    assert new.key != old.key
    assert (new.name, new.scopes, new.rate_per_minute) == ("billing", ["infer", "train"], 60)
    assert now(keys).keys[old.id].info.expires_at == clock.now + timedelta(hours=1)
    clock.advance(3601)
    with pytest.raises(Conflict):
        keys.rotate(old.id, timedelta(hours=1), actor=WHO)


def test_a_rotation_never_extends_an_expiry(keys: Keys, clock: Clock) -> None:
    ends = clock.now + timedelta(minutes=5)
    old = keys.create(NEW.model_copy(update={"expires_at": ends}), actor=WHO)
    new = keys.rotate(old.id, timedelta(days=1), actor=WHO)
    assert new.expires_at == ends
    assert now(keys).keys[old.id].info.expires_at == ends


def test_a_repeated_request_creates_one_key(keys: Keys) -> None:
    idempotency = IdempotencyKey("k", "key", "d1")
    first = keys.create(NEW, actor=WHO, idempotency=idempotency)
    again = keys.create(NEW, actor=WHO, idempotency=idempotency)
    assert (again.id, again.key) == (first.id, None)
    assert now(keys).ever_created == 1
    with pytest.raises(IdempotencyConflict):
        keys.create(NEW, actor=WHO, idempotency=IdempotencyKey("k", "key", "d2"))


def test_a_key_that_has_expired_already_is_refused(keys: Keys, clock: Clock) -> None:
    with pytest.raises(ValidationFailed):
        keys.create(NEW.model_copy(update={"expires_at": clock.now}), actor=WHO)


@pytest.mark.parametrize("cursor", ["x", "-1", "²", "", "99999999999"])
def test_a_foreign_cursor_is_refused(keys: Keys, audit: Audit, cursor: str) -> None:
    for listing in (keys.list, audit.list):
        with pytest.raises(ValidationFailed):
            listing(cursor=cursor)


def test_lists_are_paged(keys: Keys, audit: Audit) -> None:
    made = [keys.create(NEW, actor=WHO).id for _ in range(5)]
    first = keys.list(limit=3)
    second = keys.list(limit=3, cursor=first.next_cursor)
    assert [one.id for one in (*first.items, *second.items)] == made[::-1]
    assert second.next_cursor is None
    lines = audit.list(limit=3)
    assert len(audit.list(limit=3, cursor=lines.next_cursor).items) == 2


def test_changes_are_in_the_audit_log(keys: Keys, audit: Audit, clock: Clock) -> None:
    made = keys.create(NEW, actor=WHO)
    new = keys.rotate(made.id, timedelta(0), actor=WHO)
    keys.revoke(new.id, actor=Actor("bootstrap"))
    audit.write(WHO, "dataset_deleted", "ds_1")
    lines = audit.list().items
    assert [(one.actor, one.action) for one in lines] == [
        (WHO.name, "dataset_deleted"),
        ("bootstrap", "key_revoked"),
        (WHO.name, "key_rotated"),
        (WHO.name, "key_created"),
    ]
    assert lines[3].subject == f"{made.id} 'billing' (infer, train)"
    assert (lines[3].request_id, lines[3].at) == ("r1", clock.now)
    assert [one.subject for one in audit.list(action="dataset_deleted").items] == ["ds_1"]
    clock.advance(86_400 * 10)
    audit.write(WHO, "dataset_deleted", "ds_2")
    assert audit.delete_old(9) == 4
    assert [one.subject for one in audit.list().items] == ["ds_2"]


@contextmanager
def held_before_commit(engine: Engine, change: Callable[[], Any]) -> Iterator[None]:
    """Run `change` in another session, which stands before its commit until the block ends."""
    reached, go = threading.Event(), threading.Event()

    def hold(_conn: Any, _cursor: Any, statement: str, *_more: Any) -> None:
        if statement.startswith("INSERT INTO audit") and not reached.is_set():
            reached.set()
            assert go.wait(60)

    event.listen(engine, "before_cursor_execute", hold)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(change)
        try:
            assert reached.wait(60)
            yield
        finally:
            go.set()
        first.result(60)


def in_second_session(engine: Engine, first: Callable[[], Any], second: Callable[[], Any]) -> Any:
    """The result of `second`, which began while `first` was not committed."""
    with ThreadPoolExecutor(1) as pool:
        with held_before_commit(engine, first):
            result: Future[Any] = pool.submit(second)
            threading.Event().wait(0.3)  # it reads, and waits for the first session
            assert not result.done()
        return result.result(60)


def test_a_key_that_is_being_revoked_gets_no_successor(keys: Keys, engine: Engine) -> None:
    made = keys.create(NEW, actor=WHO)
    with pytest.raises(Conflict):
        in_second_session(
            engine,
            lambda: keys.revoke(made.id, actor=WHO),
            lambda: keys.rotate(made.id, timedelta(days=7), actor=WHO),
        )
    assert now(keys).keys == {}


def test_a_second_rotation_does_not_lengthen_the_life_that_the_first_shortened(
    keys: Keys, engine: Engine, clock: Clock
) -> None:
    made = keys.create(NEW, actor=WHO)
    with pytest.raises(Conflict):
        in_second_session(
            engine,
            lambda: keys.rotate(made.id, timedelta(0), actor=WHO),
            lambda: keys.rotate(made.id, timedelta(days=7), actor=WHO),
        )
    assert now(keys).keys[made.id].info.expires_at == clock.now
    assert len(now(keys).keys) == 2


def test_reopening_ends_every_key_and_is_recorded(keys: Keys, audit: Audit) -> None:
    first, second = keys.create(NEW, actor=WHO), keys.create(NEW, actor=WHO)
    keys.revoke(first.id, actor=WHO)
    before = now(keys).revision
    keys.reopen(actor=WHO)
    after = now(keys)
    assert (after.keys, after.ever_created) == ({}, 0)
    assert after.revision > before
    revoked = [entry.subject for entry in audit.list(action="key_revoked").items]
    assert [second.id in subject for subject in revoked] == [False, True, False]
    keys.reopen(actor=WHO)
    assert now(keys).revision == after.revision

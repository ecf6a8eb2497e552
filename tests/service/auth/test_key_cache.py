"""The keys in memory, with the table that they come from."""

import asyncio
import hmac
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from fastapi import FastAPI
from sqlalchemy import Engine
from starlette.types import Message, Receive, Scope, Send

from contracts.errors import Unauthorized
from contracts.keys import NewKey
from contracts.settings import Settings
from database.audit import COMMAND
from database.engine import open_engine
from database.keys import KeyRevision, Keys, KeySnapshot
from service.auth import key_cache as module
from service.auth.key_cache import KeyCache
from service.auth.principal import BOOTSTRAP, OPEN
from service.auth.scopes import ScopeTable
from service.middleware.authentication import Authentication
from tests.replica import Replica
from tests.service.parts import FakeChanges, FakeServices
from tests.tables import make_tables

NEW = NewKey(name="a client", scopes=["infer"])


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    url = f"sqlite:///{tmp_path}/opsin.db"
    make_tables(url)
    return open_engine(url)


@pytest.fixture
def keys(engine: Engine) -> Keys:
    return Keys(engine, lambda: datetime.now(UTC))


@pytest.fixture
def key_cache(keys: Keys) -> KeyCache:
    return KeyCache(Settings(_env_file=None), keys)


def test_a_slow_read_does_not_restore_a_key_revoked_meanwhile(
    keys: Keys, key_cache: KeyCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even the read of all keys, which replaces the snapshot whatever its revision."""
    made = keys.create(NEW, actor=COMMAND)
    asyncio.run(key_cache.refresh())
    began, revoked = threading.Event(), threading.Event()
    read = keys.snapshot

    def slow(known: KeyRevision | None = None) -> KeySnapshot | None:
        found = read(known)
        if not began.is_set():
            began.set()
            assert revoked.wait(20)
            time.sleep(0.2)  # the other read would finish first
        return found

    async def both() -> None:
        monkeypatch.setattr(keys, "snapshot", slow)
        monkeypatch.setattr(module, "_RELOAD_SECONDS", 0.0)
        early = asyncio.create_task(key_cache.refresh())
        assert await asyncio.to_thread(began.wait, 20)
        await asyncio.to_thread(keys.revoke, made.id, actor=COMMAND)
        late = asyncio.create_task(key_cache.refresh())
        revoked.set()
        await asyncio.gather(early, late)

    asyncio.run(both())
    with pytest.raises(Unauthorized):
        key_cache.authenticate(made.key or "")


def test_a_principal_is_valid_as_long_as_its_key(keys: Keys, key_cache: KeyCache) -> None:
    made = keys.create(NEW, actor=COMMAND)
    asyncio.run(key_cache.refresh())
    principal = key_cache.authenticate(made.key or "")
    assert key_cache.is_valid(principal)
    assert not key_cache.is_valid(replace(principal, id="key_000000000000"))
    assert not key_cache.is_valid(OPEN)
    assert key_cache.is_valid(BOOTSTRAP)
    keys.revoke(made.id, actor=COMMAND)
    asyncio.run(key_cache.refresh())
    assert not key_cache.is_valid(principal)


@pytest.mark.parametrize("is_noticed", [True, False])
@pytest.mark.parametrize("lost", [1, 2, 3])
def test_a_failover_that_loses_changes_delays_no_revocation(
    keys: Keys, engine: Engine, key_cache: KeyCache, tmp_path: Path, lost: int, is_noticed: bool
) -> None:
    """Whether the database counts fewer changes than were known, as many, or more."""
    leaked, other = keys.create(NEW, actor=COMMAND), keys.create(NEW, actor=COMMAND)
    replica = Replica(engine, tmp_path)
    for _ in range(lost):
        unknown = keys.create(NEW, actor=COMMAND)
    asyncio.run(key_cache.refresh())
    replica.promote()
    if is_noticed:
        asyncio.run(key_cache.refresh())
    keys.revoke(leaked.id, actor=COMMAND)
    new = keys.create(NEW, actor=COMMAND)
    asyncio.run(key_cache.refresh())
    for gone in (leaked, unknown):
        with pytest.raises(Unauthorized):
            key_cache.authenticate(gone.key or "")
    for valid in (other, new):
        assert key_cache.authenticate(valid.key or "").id == valid.id


def test_as_many_changes_as_a_failover_has_lost_are_noticed(
    keys: Keys, engine: Engine, key_cache: KeyCache, tmp_path: Path
) -> None:
    leaked = keys.create(NEW, actor=COMMAND)
    replica = Replica(engine, tmp_path)
    keys.create(NEW, actor=COMMAND)
    asyncio.run(key_cache.refresh())
    replica.promote()
    keys.revoke(leaked.id, actor=COMMAND)
    asyncio.run(key_cache.refresh())
    with pytest.raises(Unauthorized):
        key_cache.authenticate(leaked.key or "")


def test_every_refusal_makes_the_same_comparison(
    keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is wrong with a key: two hashes, compared in constant time."""
    compared: list[tuple[int, int]] = []
    compare = hmac.compare_digest

    def recorded(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return compare(one, other)

    made = keys.create(NEW, actor=COMMAND)
    key_cache = KeyCache(Settings(_env_file=None, api_key="a-key-of-sixteen-or-more"), keys)
    asyncio.run(key_cache.refresh())
    monkeypatch.setattr(hmac, "compare_digest", recorded)
    forged = str(made.key)[:-1] + ("0" if str(made.key)[-1] != "0" else "1")
    for credential in (forged, "opsin_000000000000_" + "0" * 48, "a-key-of-sixteen-or-mor", "x"):
        with pytest.raises(Unauthorized):
            key_cache.authenticate(credential)
    assert compared == [(32, 32)] * 4


def test_use_is_written_rarely_and_at_the_end(keys: Keys, key_cache: KeyCache) -> None:
    made = keys.create(NEW, actor=COMMAND)
    asyncio.run(key_cache.refresh())
    for _ in range(3):
        key_cache.authenticate(made.key or "")
    asyncio.run(key_cache.refresh())
    assert keys.list().items[0].last_used_at is None
    asyncio.run(key_cache.stop())
    last_used = keys.list().items[0].last_used_at
    assert last_used is not None
    assert abs((datetime.now(UTC) - last_used).total_seconds()) < 60


def test_a_stored_key_can_be_revoked_even_as_the_bootstrap_key(keys: Keys) -> None:
    made = keys.create(NEW, actor=COMMAND)
    key_cache = KeyCache(Settings(_env_file=None, api_key=made.key), keys)
    asyncio.run(key_cache.refresh())
    assert key_cache.authenticate(made.key or "").scopes == {"infer"}
    keys.revoke(made.id, actor=COMMAND)
    asyncio.run(key_cache.refresh())
    with pytest.raises(Unauthorized):
        key_cache.authenticate(made.key or "")


async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that does nothing."""


async def no_message() -> Message:
    raise AssertionError("the body must not be read")


async def no_answer(message: Message) -> None:
    raise AssertionError(f"refused: {message}")


def test_authentication_takes_microseconds(keys: Keys, key_cache: KeyCache) -> None:
    """About 15 µs of processor time; the limit is generous."""
    made = keys.create(NEW, actor=COMMAND)
    asyncio.run(key_cache.refresh())
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_api_route("/v1/classify", lambda: None, methods=["POST"])
    state = SimpleNamespace(
        scope_table=ScopeTable.build(app.routes),
        services=SimpleNamespace(
            key_cache=key_cache,
            rate_limits=FakeServices().redis,
            changes=FakeChanges(key_cache, keyed=True),
        ),
    )
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/classify",
        "query_string": b"model=squeezenet&top_k=5",
        "client": ("10.0.0.1", 5000),
        "app": SimpleNamespace(state=state),
        "state": {},
        "headers": [
            (b"host", b"opsin.example.org"),
            (b"content-type", b"image/jpeg"),
            (b"content-length", b"40000"),
            (b"authorization", f"Bearer {made.key}".encode()),
        ],
    }
    check, times = Authentication(nothing), 2000

    async def many() -> float:
        began = time.process_time()
        for _ in range(times):
            await check(scope, no_message, no_answer)
        return (time.process_time() - began) / times

    assert asyncio.run(many()) < 500e-6


def test_other_connection_types_do_not_reach_the_application(key_cache: KeyCache) -> None:
    reached = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        reached.append(scope["type"])

    check = Authentication(application)
    for kind in ("lifespan", "websocket", "something"):
        asyncio.run(check({"type": kind}, no_message, no_answer))
    assert reached == ["lifespan"]


def test_a_key_expires_by_the_clock_that_its_expiry_was_written_with(tmp_path: Path) -> None:
    """A host whose clock is a minute behind does not accept a rotated key for a minute more."""
    url = f"sqlite:///{tmp_path}/opsin.db"
    make_tables(url)
    keys = Keys(open_engine(url), lambda: datetime.now(UTC) + timedelta(seconds=65))
    key_cache = KeyCache(Settings(_env_file=None), keys)
    made = keys.create(NEW, actor=COMMAND)
    rotated = keys.rotate(made.id, timedelta(0), actor=COMMAND)
    asyncio.run(key_cache.refresh())
    assert key_cache.authenticate(rotated.key or "").scopes == {"infer"}
    with pytest.raises(Unauthorized):
        key_cache.authenticate(made.key or "")


def test_only_an_operator_opens_the_service_again(keys: Keys, key_cache: KeyCache) -> None:
    made = keys.create(NEW, actor=COMMAND)
    asyncio.run(key_cache.refresh())
    assert "opsin keys create" in key_cache.refusal().detail
    keys.revoke(made.id, actor=COMMAND)
    asyncio.run(key_cache.refresh())
    assert not key_cache.is_open
    assert "opsin keys open" in key_cache.refusal().detail
    keys.reopen(actor=COMMAND)
    asyncio.run(key_cache.refresh())
    assert key_cache.is_open

"""The keys in memory, beside the table they come from."""

import asyncio
import hmac
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime
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
from database.keys import Keys, Snapshot
from database.migrations import upgrade
from service.auth import key_cache as module
from service.auth.key_cache import Keyring
from service.auth.principal import BOOTSTRAP, OPEN
from service.auth.scopes import Doors
from service.middleware.authentication import KeyCheck
from tests.service.parts import House

NEW = NewKey(name="a client", scopes=["infer"])


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    url = f"sqlite:///{tmp_path}/opsin.db"
    upgrade(url)
    engine: Engine = open_engine(url)
    return Keys(engine, lambda: datetime.now(UTC))


@pytest.fixture
def ring(keys: Keys) -> Keyring:
    return Keyring(Settings(_env_file=None), keys)


def test_an_older_reading_does_not_bring_a_revoked_key_back(
    keys: Keys, ring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = keys.create(NEW, by=COMMAND)
    old = keys.snapshot()
    keys.revoke(made.id, by=COMMAND)
    asyncio.run(ring.refresh())
    # A reading that began before the key was revoked, and ends after.
    monkeypatch.setattr(keys, "snapshot", lambda known=None: old)
    asyncio.run(ring.refresh())
    with pytest.raises(Unauthorized):
        ring.identify(made.key or "")


def test_a_reading_that_began_before_a_revocation_does_not_outlive_it(
    keys: Keys, ring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even the reading of all keys, which takes what it finds whatever its number."""
    made = keys.create(NEW, by=COMMAND)
    asyncio.run(ring.refresh())
    began, revoked = threading.Event(), threading.Event()
    read = keys.snapshot

    def slow(known: int | None = None) -> Snapshot | None:
        found = read(known)
        if not began.is_set():
            began.set()
            assert revoked.wait(20)
            time.sleep(0.2)  # whoever could be quicker is
        return found

    async def both() -> None:
        monkeypatch.setattr(keys, "snapshot", slow)
        monkeypatch.setattr(module, "_RELOAD_SECONDS", 0.0)
        early = asyncio.create_task(ring.refresh())
        assert await asyncio.to_thread(began.wait, 20)
        await asyncio.to_thread(keys.revoke, made.id, by=COMMAND)
        late = asyncio.create_task(ring.refresh())
        revoked.set()
        await asyncio.gather(early, late)

    asyncio.run(both())
    with pytest.raises(Unauthorized):
        ring.identify(made.key or "")


def test_who_was_let_in_stands_as_long_as_the_key(keys: Keys, ring: Keyring) -> None:
    made = keys.create(NEW, by=COMMAND)
    asyncio.run(ring.refresh())
    caller = ring.identify(made.key or "")
    assert ring.stands(caller)
    assert not ring.stands(replace(caller, id="key_000000000000"))
    assert not ring.stands(OPEN)
    assert ring.stands(BOOTSTRAP)
    keys.revoke(made.id, by=COMMAND)
    asyncio.run(ring.refresh())
    assert not ring.stands(caller)


def test_a_database_that_was_put_back_is_believed_in_the_end(
    keys: Keys, ring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = keys.create(NEW, by=COMMAND)
    backup = keys.snapshot()
    keys.revoke(first.id, by=COMMAND)
    asyncio.run(ring.refresh())
    monkeypatch.setattr(keys, "snapshot", lambda known=None: backup)
    monkeypatch.setattr(module, "_RELOAD_SECONDS", 0.0)
    asyncio.run(ring.refresh())
    assert ring.identify(first.key or "").id == first.id


def test_every_refusal_makes_the_same_comparison(
    keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Known or not, right or wrong in the first byte: two hashes, compared in constant time."""
    compared: list[tuple[int, int]] = []
    compare = hmac.compare_digest

    def noted(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return compare(one, other)

    made = keys.create(NEW, by=COMMAND)
    ring = Keyring(Settings(_env_file=None, api_key="a-key-of-sixteen-or-more"), keys)
    asyncio.run(ring.refresh())
    monkeypatch.setattr(hmac, "compare_digest", noted)
    forged = str(made.key)[:-1] + ("0" if str(made.key)[-1] != "0" else "1")
    for shown in (forged, "opsin_000000000000_" + "0" * 48, "a-key-of-sixteen-or-mor", "x"):
        with pytest.raises(Unauthorized):
            ring.identify(shown)
    assert compared == [(32, 32)] * 4


def test_use_is_noted_seldom_and_at_the_end(keys: Keys, ring: Keyring) -> None:
    made = keys.create(NEW, by=COMMAND)
    asyncio.run(ring.refresh())
    for _ in range(3):
        ring.identify(made.key or "")
    asyncio.run(ring.refresh())
    assert keys.list().items[0].last_used_at is None
    asyncio.run(ring.stop())
    noted = keys.list().items[0].last_used_at
    assert noted is not None
    assert abs((datetime.now(UTC) - noted).total_seconds()) < 60


def test_one_of_our_keys_is_judged_by_the_table_even_as_the_bootstrap_key(keys: Keys) -> None:
    made = keys.create(NEW, by=COMMAND)
    ring = Keyring(Settings(_env_file=None, api_key=made.key), keys)
    asyncio.run(ring.refresh())
    assert ring.identify(made.key or "").scopes == {"infer"}
    keys.revoke(made.id, by=COMMAND)
    asyncio.run(ring.refresh())
    with pytest.raises(Unauthorized):
        ring.identify(made.key or "")


async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that does nothing."""


async def no_message() -> Message:
    raise AssertionError("nobody reads here")


async def no_answer(message: Message) -> None:
    raise AssertionError(f"refused: {message}")


def test_a_check_costs_microseconds(keys: Keys, ring: Keyring) -> None:
    """About 15 µs of processor time; asserted with much slack."""
    made = keys.create(NEW, by=COMMAND)
    asyncio.run(ring.refresh())
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_api_route("/v1/classify", lambda: None, methods=["POST"])
    doors = Doors()
    doors.learn(app.routes)
    state = SimpleNamespace(
        doors=doors, services=SimpleNamespace(keyring=ring, rate_limits=House().redis)
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
    check, times = KeyCheck(nothing), 2000

    async def many() -> float:
        began = time.process_time()
        for _ in range(times):
            await check(scope, no_message, no_answer)
        return (time.process_time() - began) / times

    assert asyncio.run(many()) < 500e-6


def test_a_connection_of_another_kind_reaches_nobody(ring: Keyring) -> None:
    reached = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        reached.append(scope["type"])

    check = KeyCheck(application)
    for kind in ("lifespan", "websocket", "something"):
        asyncio.run(check({"type": kind}, no_message, no_answer))
    assert reached == ["lifespan"]

"""The keys of tokens: one signs, replaced ones stay while their tokens are valid."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import Engine, text

from contracts.errors import Unavailable
from database.crypto.envelope import EnvelopeCipher
from database.crypto.master_keys import Key
from database.faces.token_keys import TokenKeys
from tests.database.conftest import Clock

DAY = 86_400.0


def keys_of(engine: Engine, clock: Clock, secret: int = 1) -> TokenKeys:
    return TokenKeys(
        engine,
        clock,
        EnvelopeCipher([Key("k", bytes([secret]) * 32)]),
        max_age=timedelta(days=90),
        token_life=timedelta(minutes=15),
    )


@pytest.fixture
def keys(engine: Engine, clock: Clock) -> TokenKeys:
    return keys_of(engine, clock)


def test_processes_that_sign_simultaneously_share_one_key(keys: TokenKeys) -> None:
    with ThreadPoolExecutor(6) as pool:
        ids = set(pool.map(lambda _: keys.signing().id, range(6)))
    assert len(ids) == 1
    assert [one.id for one in keys.public()] == list(ids)


def test_a_replaced_key_is_removed_when_its_last_token_has_expired(
    keys: TokenKeys, clock: Clock
) -> None:
    first = keys.signing().id
    second = keys.rotate()
    assert keys.signing().id == second
    clock.advance(15 * 60)
    assert [one.id for one in keys.public()] == [second, first]
    clock.advance(6 * 60)
    assert [one.id for one in keys.public()] == [second]


def test_an_old_key_is_replaced_automatically(keys: TokenKeys, clock: Clock) -> None:
    first = keys.signing().id
    clock.advance(89 * DAY)
    assert keys.signing().id == first
    clock.advance(2 * DAY)
    assert keys.signing().id != first


def test_the_public_key_belongs_to_the_private_key(keys: TokenKeys) -> None:
    signing = keys.signing()
    keys.public()[0].key.verify(signing.key.sign(b"x"), b"x")


def test_private_keys_are_stored_encrypted(keys: TokenKeys, engine: Engine, clock: Clock) -> None:
    signing = keys.signing()
    with engine.connect() as connection:
        row = str(connection.execute(text("SELECT value FROM face_settings")).scalar_one())
    assert signing.key.private_bytes_raw().hex() not in row
    with pytest.raises(Unavailable):
        keys_of(engine, clock, secret=2).signing()

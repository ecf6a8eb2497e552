"""What is sealed opens for its owner and purpose, and for nobody and nothing else."""

import base64
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from contracts.settings import Settings
from database.crypto.envelope import DataKey, Sealer, SealError, key_id_of
from database.crypto.master_keys import Key, KeyFile, read_keys

ONE, TWO = Key("one", bytes(32)), Key("two", bytes([7]) * 32)


def text(key: Key) -> str:
    return f"{key.id}:{base64.b64encode(key.secret).decode()}"


def test_what_is_sealed_opens_for_the_same_purpose_alone() -> None:
    sealer = Sealer([ONE])
    sealed = sealer.seal(b"secret", "this")
    assert sealer.open(sealed, "this") == b"secret"
    assert b"secret" not in sealed
    assert sealer.seal(b"secret", "this") != sealed
    with pytest.raises(SealError):
        sealer.open(sealed, "that")


@pytest.mark.parametrize("at", [0, 1, 2, 6, 18, -1])
def test_a_changed_byte_is_noticed(at: int) -> None:
    sealer = Sealer([ONE])
    sealed = bytearray(sealer.seal(b"secret", "this"))
    sealed[at] ^= 1
    with pytest.raises(SealError):
        sealer.open(bytes(sealed), "this")


@pytest.mark.parametrize("length", [0, 1, 3, 10, 20])
def test_what_is_cut_short_is_no_sealed_text(length: int) -> None:
    sealer = Sealer([ONE])
    with pytest.raises(SealError):
        sealer.open(sealer.seal(b"secret", "this")[:length], "this")


def test_a_data_key_is_its_owners_and_outlives_a_change_of_master_key() -> None:
    kept, key = Sealer([ONE]).new_data_key("sub_1")
    sealed = key.seal(b"face", "template")
    both = Sealer([TWO, ONE])
    with pytest.raises(SealError):
        both.open_data_key(kept, "sub_2")
    renewed = both.reseal_data_key(kept, "sub_1")
    assert (key_id_of(kept), key_id_of(renewed)) == ("one", "two")
    assert Sealer([TWO]).open_data_key(renewed, "sub_1").open(sealed, "template") == b"face"
    with pytest.raises(SealError, match="'one' is not among"):
        Sealer([TWO]).open_data_key(kept, "sub_1")
    with pytest.raises(SealError):
        DataKey(bytes(32)).open(sealed, "template")


def test_what_is_derived_is_the_first_keys_and_the_purposes() -> None:
    assert Sealer([ONE]).derived("a") == Sealer([ONE, TWO]).derived("a")
    assert Sealer([ONE]).derived("a")[1] != Sealer([TWO]).derived("a")[1]
    assert Sealer([ONE]).derived("a")[1] != Sealer([ONE]).derived("b")[1]


def test_a_key_that_another_process_added_is_derived_from(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "keys")
    sealer = Sealer(file.read(), file)
    before = sealer.derived("a")
    added = file.add()
    after = sealer.derived("a")
    assert after[0] == added.id
    assert after[1] != before[1]


def test_of_keys_added_at_once_none_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    KeyFile(path).read()
    with ThreadPoolExecutor(8) as pool:
        added = list(pool.map(lambda _: KeyFile(path).add(), range(40)))
    assert set(added) < set(KeyFile(path).read())


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        ("", "at least one"),
        ("nonsense", "id:base64"),
        ("k:!!!!", "id:base64"),
        ("k:AAAA", "3 bytes"),
        ("k:AAAAA", "not base64"),
        (f"{text(ONE)},{text(ONE)}", "id of its own"),
    ],
)
def test_malformed_keys_are_refused_and_not_repeated(sent: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as error:
        read_keys(sent)
    assert "AAAA" not in str(error.value)


def test_keys_come_from_the_settings(tmp_path: Path) -> None:
    settings = Settings(_env_file=None, home=tmp_path, faces_keys=f"{text(TWO)}, {text(ONE)}")
    assert Sealer.of(settings).key_ids == ("two", "one")
    assert not settings.secrets_home.exists()
    assert "AAAA" not in repr(read_keys(text(ONE)))


def test_a_file_of_keys_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    settings = Settings(_env_file=None, home=tmp_path)
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(Sealer.of(settings).key_id)) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert settings.face_keys_file.stat().st_mode & 0o777 == 0o600
    assert os.listdir(settings.secrets_home) == ["faces.keys"]  # noqa: PTH208
    settings.face_keys_file.chmod(0o644)
    with pytest.raises(ValueError, match="chmod 600"):
        Sealer.of(settings)


def test_a_key_that_another_process_adds_is_found(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "keys")
    running = Sealer(file.read(), file)
    old = running.seal(b"a", "x")
    added = file.add()
    other = Sealer(file.read(), file)
    assert other.key_id == added.id
    assert running.open(other.seal(b"b", "x"), "x") == b"b"
    assert running.key_id == added.id
    file.keep([])
    assert [key.id for key in file.read()] == [added.id]
    with pytest.raises(SealError):
        Sealer(file.read(), file).open(old, "x")

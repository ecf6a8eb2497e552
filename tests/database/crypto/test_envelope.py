"""A ciphertext can be decrypted only for its owner and purpose."""

import base64
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Engine

from contracts.errors import NeedsOperator
from contracts.settings import Settings
from database.crypto.cipher import open_cipher
from database.crypto.envelope import DataKey, DecryptionError, EnvelopeCipher, key_id_of
from database.crypto.master_keys import Key, KeyFile, read_keys

ONE, TWO = Key("one", bytes(32)), Key("two", bytes([7]) * 32)


def text(key: Key) -> str:
    return f"{key.id}:{base64.b64encode(key.secret).decode()}"


def test_decryption_needs_the_same_purpose() -> None:
    cipher = EnvelopeCipher([ONE])
    encrypted = cipher.encrypt(b"secret", "this")
    assert cipher.decrypt(encrypted, "this") == b"secret"
    assert b"secret" not in encrypted
    assert cipher.encrypt(b"secret", "this") != encrypted
    with pytest.raises(DecryptionError):
        cipher.decrypt(encrypted, "that")


@pytest.mark.parametrize("index", [0, 1, 2, 6, 18, -1])
def test_a_changed_byte_is_detected(index: int) -> None:
    cipher = EnvelopeCipher([ONE])
    encrypted = bytearray(cipher.encrypt(b"secret", "this"))
    encrypted[index] ^= 1
    with pytest.raises(DecryptionError):
        cipher.decrypt(bytes(encrypted), "this")


@pytest.mark.parametrize("length", [0, 1, 3, 10, 20])
def test_a_truncated_ciphertext_is_rejected(length: int) -> None:
    cipher = EnvelopeCipher([ONE])
    with pytest.raises(DecryptionError):
        cipher.decrypt(cipher.encrypt(b"secret", "this")[:length], "this")


def test_a_data_key_belongs_to_its_owner_and_survives_a_new_master_key() -> None:
    data_key, key = EnvelopeCipher([ONE]).new_data_key("sub_1")
    encrypted = key.encrypt(b"face", "template")
    both = EnvelopeCipher([TWO, ONE])
    with pytest.raises(DecryptionError):
        both.decrypt_data_key(data_key, "sub_2")
    reencrypted = both.reencrypt_data_key(data_key, "sub_1")
    assert (key_id_of(data_key), key_id_of(reencrypted)) == ("one", "two")
    assert (
        EnvelopeCipher([TWO]).decrypt_data_key(reencrypted, "sub_1").decrypt(encrypted, "template")
        == b"face"
    )
    with pytest.raises(DecryptionError, match="'one' is not among"):
        EnvelopeCipher([TWO]).decrypt_data_key(data_key, "sub_1")
    with pytest.raises(DecryptionError):
        DataKey(bytes(32)).decrypt(encrypted, "template")


def test_a_derived_secret_depends_on_the_first_key_and_the_purpose() -> None:
    assert EnvelopeCipher([ONE]).derive("a") == EnvelopeCipher([ONE, TWO]).derive("a")
    assert EnvelopeCipher([ONE]).derive("a")[1] != EnvelopeCipher([TWO]).derive("a")[1]
    assert EnvelopeCipher([ONE]).derive("a")[1] != EnvelopeCipher([ONE]).derive("b")[1]


def test_a_secret_is_derived_from_a_key_that_another_process_added(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "keys")
    file.create()
    cipher = EnvelopeCipher(file.read(), file)
    before = cipher.derive("a")
    added = file.add()
    after = cipher.derive("a")
    assert after[0] == added.id
    assert after[1] != before[1]


def test_no_key_is_lost_when_several_are_added_at_once(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    KeyFile(path).create()
    with ThreadPoolExecutor(8) as pool:
        added = list(pool.map(lambda _: KeyFile(path).add(), range(40)))
    assert set(added) < set(KeyFile(path).read())


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("", "at least one"),
        ("nonsense", "id:base64"),
        ("k:!!!!", "id:base64"),
        ("k:AAAA", "3 bytes"),
        ("k:AAAAA", "not base64"),
        (f"{text(ONE)},{text(ONE)}", "different id"),
    ],
)
def test_malformed_keys_are_refused_without_repeating_them(keys: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        read_keys(keys)
    assert "AAAA" not in str(error.value)


def test_keys_come_from_the_settings(tmp_path: Path, engine: Engine) -> None:
    settings = Settings(_env_file=None, home=tmp_path, faces_keys=f"{text(TWO)}, {text(ONE)}")
    cipher = open_cipher(settings, engine)
    assert cipher.key_id == "two"
    earlier = EnvelopeCipher(read_keys(text(ONE))).encrypt(b"a", "x")
    assert cipher.decrypt(earlier, "x") == b"a"
    assert not settings.secrets_home.exists()
    assert "AAAA" not in repr(read_keys(text(ONE)))


def test_the_key_file_is_created_once_and_only_its_owner_can_read_it(
    tmp_path: Path, engine: Engine
) -> None:
    settings = Settings(_env_file=None, home=tmp_path)
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(open_cipher(settings, engine).key_id))
        for _ in range(8)
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
        open_cipher(settings, engine)


def test_a_key_that_another_process_adds_is_used(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "keys")
    file.create()
    running = EnvelopeCipher(file.read(), file)
    old = running.encrypt(b"a", "x")
    added = file.add()
    other = EnvelopeCipher(file.read(), file)
    assert other.key_id == added.id
    assert running.decrypt(other.encrypt(b"b", "x"), "x") == b"b"
    assert running.key_id == added.id
    with pytest.raises(DecryptionError):
        EnvelopeCipher(file.read()[:1]).decrypt(old, "x")


def test_nothing_is_encrypted_with_a_key_whose_file_is_gone(tmp_path: Path) -> None:
    """It is in memory only: whoever was enrolled with it would be lost at the next start."""
    path = tmp_path / "keys"
    KeyFile(path).create()
    running = EnvelopeCipher.of_file(KeyFile(path))
    old, _ = running.new_data_key("ada")
    path.rename(tmp_path / "elsewhere")
    with pytest.raises(NeedsOperator, match=r"put back the file secrets/faces\.keys"):
        running.new_data_key("bea")
    running.decrypt_data_key(old, "ada")
    (tmp_path / "elsewhere").rename(path)
    running.new_data_key("bea")

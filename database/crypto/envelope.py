"""Envelope encryption with AES-256-GCM.

A master key, from the settings or from a file that only its owner may read, encrypts one data key
per subject; the data key encrypts the subject's templates and frames. Changing the master key
therefore re-encrypts a few bytes per subject and no images, and deleting a data key makes all data
of the subject unreadable, whatever a disk or a backup of the files still holds.

A ciphertext has the layout ``version, length of key id, key id, nonce (12), ciphertext and tag``.
Its purpose is authenticated with it, so that a ciphertext cannot be moved to another row.
"""

import secrets
from collections.abc import Sequence
from typing import Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from contracts.errors import NeedsOperator
from database.crypto.master_keys import KEY_BYTES, Key, KeyFile

_NONCE_BYTES = 12
_VERSION = 1
_DATA_KEY_ID = ""  # the key id in a ciphertext of a data key: there is only one


MISSING_KEY_HELP = (
    "a key that encrypts face data is missing. The operator has to put back the file "
    "secrets/faces.keys of the data home, or the setting OPSIN_FACES_KEYS; a backup holds them "
    "only if it was made with --secrets. If it is lost for good, `opsin faces replace-lost-keys` "
    "makes a new one."
)
"""The end of a sentence for people, of what cannot be done because of it."""


class DecryptionError(Exception):
    """A ciphertext cannot be decrypted: its key is missing, or it was changed or moved."""


class EnvelopeCipher:
    """Encrypts with the first master key and decrypts with any of them.

    Args:
        keys: The master keys, the one that encrypts first.
        file: The file they come from, if any; it is read again when another process changes it, and
            need not exist yet: meanwhile there is no key.

    Raises:
        ValueError: There is neither a key nor a file.
    """

    def __init__(self, keys: Sequence[Key], file: KeyFile | None = None) -> None:
        if not keys and file is None:
            raise ValueError("at least one master key is needed")
        self._file = file
        self._version = file.version if file and keys else None
        self._keys = tuple(keys)

    @classmethod
    def of_file(cls, file: KeyFile) -> Self:
        """Use the keys of a file, none as long as it does not exist.

        Raises:
            ValueError: The keys are malformed, or others can read the file.
            OSError: The file cannot be read.
        """
        return cls(file.read() if file.exists() else (), file)

    @property
    def key_id(self) -> str:
        """Id of the master key that encrypts.

        Raises:
            NeedsOperator: There is none.
        """
        return self._first_key().id

    def new_data_key(self, owner: str) -> tuple[bytes, "DataKey"]:
        """Generate a data key for `owner`; returns it encrypted, for storage, and ready to use."""
        secret = secrets.token_bytes(KEY_BYTES)
        return self.encrypt(secret, _data_key_purpose(owner)), DataKey(secret)

    def decrypt_data_key(self, encrypted: bytes, owner: str) -> "DataKey":
        """Decrypt the data key of `owner`.

        Raises:
            DecryptionError: It belongs to another owner, was changed, or its master key is missing.
        """
        return DataKey(self.decrypt(encrypted, _data_key_purpose(owner)))

    def reencrypt_data_key(self, encrypted: bytes, owner: str) -> bytes:
        """Encrypt the same data key with the first master key.

        Raises:
            DecryptionError: As `decrypt_data_key`.
        """
        purpose = _data_key_purpose(owner)
        return self.encrypt(self.decrypt(encrypted, purpose), purpose)

    def encrypt(self, content: bytes, purpose: str) -> bytes:
        """Encrypt with the first master key; decryption needs the same `purpose`.

        Raises:
            NeedsOperator: There is no key, or its file is gone, so that the content could not be
                decrypted after the next start.
        """
        key = self._first_key()
        if self._file is not None and self._file.version is None:
            raise _missing_key()
        return _encrypt(key, content, purpose.encode())

    def decrypt(self, encrypted: bytes, purpose: str) -> bytes:
        """Decrypt what was encrypted for `purpose`.

        Raises:
            DecryptionError: The purpose differs, the ciphertext was changed, or its key is missing.
        """
        key_id = key_id_of(encrypted)
        key = self._find(key_id)
        if key is None:
            self._reload()
            key = self._find(key_id)
        if key is None:
            raise DecryptionError(f"the key '{key_id}' is not among OPSIN_FACES_KEYS")
        return _decrypt(key, encrypted, purpose.encode())

    def derive(self, purpose: str) -> tuple[str, bytes]:
        """Derive 32 secret bytes for `purpose` from the first master key; returns (key id, secret).

        Uses HKDF-SHA256 (RFC 5869). The secret changes with the first key.

        Raises:
            NeedsOperator: There is no key.
        """
        key = self._first_key()
        info = f"opsin {purpose}".encode()
        return key.id, HKDF(SHA256(), KEY_BYTES, salt=None, info=info).derive(key.secret)

    def _first_key(self) -> Key:
        self._reload()
        if not self._keys:
            raise _missing_key()
        return self._keys[0]

    def _find(self, key_id: str) -> Key | None:
        return next((key for key in self._keys if key.id == key_id), None)

    def _reload(self) -> None:
        """Read the file again if another process has changed it."""
        if self._file is None or (version := self._file.version) == self._version:
            return
        if version is not None:
            self._keys, self._version = self._file.read(), version


class DataKey:
    """Encrypts and decrypts the data of one subject.

    Args:
        secret: 32 bytes.
    """

    def __init__(self, secret: bytes) -> None:
        self._key = Key(_DATA_KEY_ID, secret)

    def encrypt(self, content: bytes, purpose: str) -> bytes:
        """Encrypt; decryption needs the same `purpose`."""
        return _encrypt(self._key, content, purpose.encode())

    def decrypt(self, encrypted: bytes, purpose: str) -> bytes:
        """Decrypt.

        Raises:
            DecryptionError: The purpose or the key differs, or the ciphertext was changed.
        """
        return _decrypt(self._key, encrypted, purpose.encode())


def key_id_of(encrypted: bytes) -> str:
    """Id of the key that encrypted it.

    Raises:
        DecryptionError: It is not a ciphertext of this module.
    """
    if len(encrypted) < 2 or encrypted[0] != _VERSION or len(encrypted) < 2 + encrypted[1]:
        raise DecryptionError("not a ciphertext of this release")
    return encrypted[2 : 2 + encrypted[1]].decode("ascii", errors="replace")


def _missing_key() -> NeedsOperator:
    return NeedsOperator(f"Nothing can be encrypted: {MISSING_KEY_HELP}", retry_after=60)


def _data_key_purpose(owner: str) -> str:
    return f"data key of {owner}"


def _encrypt(key: Key, content: bytes, purpose: bytes) -> bytes:
    nonce = secrets.token_bytes(_NONCE_BYTES)
    key_id = key.id.encode()
    header = bytes((_VERSION, len(key_id))) + key_id
    return header + nonce + AESGCM(key.secret).encrypt(nonce, content, purpose)


def _decrypt(key: Key, encrypted: bytes, purpose: bytes) -> bytes:
    start = 2 + len(key_id_of(encrypted))
    nonce, rest = encrypted[start : start + _NONCE_BYTES], encrypted[start + _NONCE_BYTES :]
    try:
        return AESGCM(key.secret).decrypt(nonce, rest, purpose)
    except (InvalidTag, ValueError):
        raise DecryptionError("the ciphertext was changed or belongs to something else") from None

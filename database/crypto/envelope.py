"""Seals what must be unreadable without a key: AES-256-GCM, in two steps.

A master key, named in the settings or kept in a file that only its owner may read, seals a data
key for each subject; the data key seals the subject's templates and pictures. So a change of the
master key seals some bytes a subject anew and no picture, and a subject's data are gone for good
with its data key, whatever a disk or a backup of the files still holds.

A sealed text is ``version, length of key id, key id, nonce (12), ciphertext and tag``. What it
stands for is authenticated with it, so that one row's cannot be put into another.
"""

import secrets
from collections.abc import Sequence
from typing import Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from contracts.settings import Settings
from database.crypto.master_keys import KEY_BYTES, Key, KeyFile, read_keys

_NONCE_BYTES = 12
_VERSION = 1
_DATA_KEY = ""  # the id under which a data key seals: there is but one


class SealError(Exception):
    """A sealed text cannot be opened: its key is not here, or it was changed or moved."""


class Sealer:
    """The master keys of one process.

    Args:
        keys: The first seals, all open.
        file: Where they come from, if it is a file: another process may add one.

    Raises:
        ValueError: There is no key.
    """

    def __init__(self, keys: Sequence[Key], file: KeyFile | None = None) -> None:
        if not keys:
            raise ValueError("a sealer needs a key")
        self._file = file
        self._stamp = file.stamp if file else None
        self._keys = tuple(keys)

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The keys of this installation; the file is made if none are set.

        Raises:
            ValueError: The keys are malformed, or the file is not for its owner alone.
            OSError: The file cannot be read or made.
        """
        if settings.faces_keys is not None:
            return cls(read_keys(settings.faces_keys.get_secret_value()))
        file = KeyFile(settings.face_keys_file)
        return cls(file.read(), file)

    @property
    def key_id(self) -> str:
        """The id of the key that seals."""
        self._renew()
        return self._keys[0].id

    @property
    def key_ids(self) -> tuple[str, ...]:
        """The ids of all keys, the one that seals first."""
        self._renew()
        return tuple(key.id for key in self._keys)

    def new_data_key(self, owner: str) -> tuple[bytes, "DataKey"]:
        """A fresh key for what belongs to `owner`: sealed, to be kept, and ready for use."""
        secret = secrets.token_bytes(KEY_BYTES)
        return self.seal(secret, _owned(owner)), DataKey(secret)

    def open_data_key(self, sealed: bytes, owner: str) -> "DataKey":
        """The data key of `owner`.

        Raises:
            SealError: It is another's, was changed, or its master key is not here.
        """
        return DataKey(self.open(sealed, _owned(owner)))

    def reseal_data_key(self, sealed: bytes, owner: str) -> bytes:
        """The same data key, sealed by the first master key.

        Raises:
            SealError: As `open_data_key`.
        """
        return self.seal(self.open(sealed, _owned(owner)), _owned(owner))

    def seal(self, content: bytes, purpose: str) -> bytes:
        """The content, sealed by the first key; `purpose` must be given to open it."""
        self._renew()
        return _seal(self._keys[0], content, purpose.encode())

    def open(self, sealed: bytes, purpose: str) -> bytes:
        """What was sealed for that purpose.

        Raises:
            SealError: It was sealed for another, was changed, or its key is not here.
        """
        key_id = key_id_of(sealed)
        key = self._find(key_id)
        if key is None:
            self._renew()
            key = self._find(key_id)
        if key is None:
            raise SealError(f"the key '{key_id}' is not among OPSIN_FACES_KEYS")
        return _open(key, sealed, purpose.encode())

    def derived(self, purpose: str) -> tuple[str, bytes]:
        """32 secret bytes for that purpose alone, from the first key, and that key's id.

        Made by HKDF-SHA256 (RFC 5869). They change with the first key.
        """
        self._renew()
        key = self._keys[0]
        info = f"opsin {purpose}".encode()
        return key.id, HKDF(SHA256(), KEY_BYTES, salt=None, info=info).derive(key.secret)

    def _find(self, key_id: str) -> Key | None:
        return next((key for key in self._keys if key.id == key_id), None)

    def _renew(self) -> None:
        """Read the file again if another process has changed it."""
        if self._file is None or (stamp := self._file.stamp) == self._stamp or stamp is None:
            return
        self._keys, self._stamp = self._file.read(), stamp


class DataKey:
    """Seals and opens what belongs to one subject.

    Args:
        secret: 32 bytes.
    """

    def __init__(self, secret: bytes) -> None:
        self._key = Key(_DATA_KEY, secret)

    def seal(self, content: bytes, purpose: str) -> bytes:
        """The content, sealed; `purpose` says what it is and must be given to open it."""
        return _seal(self._key, content, purpose.encode())

    def open(self, sealed: bytes, purpose: str) -> bytes:
        """The content.

        Raises:
            SealError: It was sealed for another purpose or by another key, or was changed.
        """
        return _open(self._key, sealed, purpose.encode())


def key_id_of(sealed: bytes) -> str:
    """The id of the key that sealed it.

    Raises:
        SealError: It is no sealed text.
    """
    if len(sealed) < 2 or sealed[0] != _VERSION or len(sealed) < 2 + sealed[1]:
        raise SealError("not a sealed text of this release")
    return sealed[2 : 2 + sealed[1]].decode("ascii", errors="replace")


def _owned(owner: str) -> str:
    return f"data key of {owner}"


def _seal(key: Key, content: bytes, purpose: bytes) -> bytes:
    nonce = secrets.token_bytes(_NONCE_BYTES)
    name = key.id.encode()
    header = bytes((_VERSION, len(name))) + name
    return header + nonce + AESGCM(key.secret).encrypt(nonce, content, purpose)


def _open(key: Key, sealed: bytes, purpose: bytes) -> bytes:
    start = 2 + len(key_id_of(sealed))
    nonce, rest = sealed[start : start + _NONCE_BYTES], sealed[start + _NONCE_BYTES :]
    try:
        return AESGCM(key.secret).decrypt(nonce, rest, purpose)
    except (InvalidTag, ValueError):
        raise SealError("the sealed text was changed, or belongs to something else") from None

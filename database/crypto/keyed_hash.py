"""Keyed hashes of devices and uploads; without the key they reveal nothing.

The hash has its own key, which is generated once and stored encrypted by the master key. It
survives a change of the master key, so that a locked device stays locked and a repeated request is
recognized.
"""

import base64
import hmac
import secrets
import threading
from collections.abc import Callable
from datetime import datetime
from hashlib import sha256

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from contracts.errors import NeedsOperator
from database.crypto.envelope import MISSING_KEY_HELP, DecryptionError, EnvelopeCipher
from database.crypto.master_keys import KEY_BYTES
from database.engine import advisory_lock, reading, writing
from database.tables import DIGEST_KEY, FaceSettingRecord

_LOCK = 0x0951_0006  # see `database.engine.advisory_lock`
_PURPOSE = "digest key"


class KeyedHash:
    """HMAC-SHA256 with a key from the database, which is read once and then cached."""

    def __init__(
        self, engine: Engine, clock: Callable[[], datetime], cipher: EnvelopeCipher
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._cipher = cipher
        self._lock = threading.Lock()
        self._secret: bytes | None = None

    def hexdigest(self, content: bytes) -> str:
        """HMAC-SHA256 of the content in hex; the same at any time and in any process.

        Raises:
            Unavailable: The database does not answer.
            NeedsOperator: The master key that encrypted the hash's key is missing.
        """
        return hmac.new(self._key(), content, sha256).hexdigest()

    def reencrypt(self) -> None:
        """Encrypt the hash's key with the first master key.

        Raises:
            DecryptionError: The master key that encrypted it is missing.
        """
        with writing(self._engine) as session:
            advisory_lock(session.connection(), _LOCK)
            if (encrypted := _load(session)) is not None:
                self._store(session, self._cipher.decrypt(encrypted, _PURPOSE))

    def replace_lost(self) -> bool:
        """Make a new key if the stored one cannot be decrypted; returns whether it did.

        Hashes by the earlier key match nothing any more.
        """
        with writing(self._engine) as session:
            advisory_lock(session.connection(), _LOCK)
            if (encrypted := _load(session)) is None:
                return False
            try:
                self._cipher.decrypt(encrypted, _PURPOSE)
            except DecryptionError:
                self._store(session, secrets.token_bytes(KEY_BYTES))
                return True
        return False

    def _key(self) -> bytes:
        with self._lock:
            if self._secret is None:
                self._secret = self._load_or_create()
            return self._secret

    def _load_or_create(self) -> bytes:
        with reading(self._engine) as session:
            encrypted = _load(session)
        if encrypted is None:
            with writing(self._engine) as session:
                advisory_lock(session.connection(), _LOCK)
                # Another process may have created it in the meantime.
                if (encrypted := _load(session)) is None:
                    return self._store(session, secrets.token_bytes(KEY_BYTES))
        try:
            return self._cipher.decrypt(encrypted, _PURPOSE)
        except DecryptionError as error:
            raise NeedsOperator(
                f"Nothing can be compared with earlier requests: {MISSING_KEY_HELP}",
                retry_after=60,
            ) from error

    def _store(self, session: Session, secret: bytes) -> bytes:
        row = session.get(FaceSettingRecord, DIGEST_KEY)
        if row is None:
            row = FaceSettingRecord(key=DIGEST_KEY)
            session.add(row)
        encrypted = base64.b64encode(self._cipher.encrypt(secret, _PURPOSE)).decode()
        row.value, row.updated_at = {"sealed": encrypted}, self._clock()
        return secret


def _load(session: Session) -> bytes | None:
    row = session.get(FaceSettingRecord, DIGEST_KEY)
    return None if row is None else base64.b64decode(row.value["sealed"])

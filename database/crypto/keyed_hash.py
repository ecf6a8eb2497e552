"""Digests that tell nothing to who has no key: of devices, and of what was sent.

Their key is one of its own, made once and sealed by the master key. So it outlives a change of the
master key: a lock on a device holds, and a repeated request is known again.
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

from contracts.errors import Unavailable
from database.crypto.envelope import Sealer, SealError
from database.crypto.master_keys import KEY_BYTES
from database.engine import alone, reading, writing
from database.tables import FaceSettingRecord

_KEY = "digest_key"
_LOCK = 0x0951_0005  # see `database.engine.alone`
_PURPOSE = "digest key"


class Digests:
    """One row that holds the key. Unavailable without a database, until it was read once.

    Args:
        engine: The database.
        clock: What time it is.
        sealer: The master keys.
    """

    def __init__(self, engine: Engine, clock: Callable[[], datetime], sealer: Sealer) -> None:
        self._engine = engine
        self._clock = clock
        self._sealer = sealer
        self._lock = threading.Lock()
        self._secret: bytes | None = None

    def of(self, content: bytes) -> str:
        """HMAC-SHA256 of it, in hex; equal for equal content, on any day and in any process.

        Raises:
            Unavailable: The master key that sealed the digests' key is not here.
        """
        return hmac.new(self._key(), content, sha256).hexdigest()

    def reseal(self) -> None:
        """Seal the key by the first master key.

        Raises:
            SealError: The master key that sealed it is not here.
        """
        with writing(self._engine) as session:
            alone(session.connection(), _LOCK)
            if (sealed := _kept(session)) is not None:
                self._keep(session, self._sealer.open(sealed, _PURPOSE))

    def _key(self) -> bytes:
        with self._lock:
            if self._secret is None:
                self._secret = self._read()
            return self._secret

    def _read(self) -> bytes:
        with reading(self._engine) as session:
            sealed = _kept(session)
        if sealed is None:
            with writing(self._engine) as session:
                alone(session.connection(), _LOCK)
                if (sealed := _kept(session)) is None:  # else another process was quicker
                    return self._keep(session, secrets.token_bytes(KEY_BYTES))
        try:
            return self._sealer.open(sealed, _PURPOSE)
        except SealError as error:
            raise Unavailable(
                "Nothing can be compared with what was sent before: a key is missing. Tell the "
                "operator.",
                retry_after=60,
            ) from error

    def _keep(self, session: Session, secret: bytes) -> bytes:
        row = session.get(FaceSettingRecord, _KEY)
        if row is None:
            row = FaceSettingRecord(key=_KEY)
            session.add(row)
        sealed = base64.b64encode(self._sealer.seal(secret, _PURPOSE)).decode()
        row.value, row.updated_at = {"sealed": sealed}, self._clock()
        return secret


def _kept(session: Session) -> bytes | None:
    row = session.get(FaceSettingRecord, _KEY)
    return None if row is None else base64.b64decode(row.value["sealed"])

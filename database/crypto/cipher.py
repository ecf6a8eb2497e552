"""Opens the cipher of an installation; a master key is made only while nothing needs another one.

A new key would hide that the right one is missing, as on a machine whose `OPSIN_HOME` is wrong or
not mounted: what it encrypts cannot be decrypted where the right key is.
"""

import base64
from collections.abc import Iterator
from contextlib import suppress

from sqlalchemy import Engine, inspect, select
from sqlalchemy.orm import Session

from contracts.settings import Settings
from database.crypto.envelope import DecryptionError, EnvelopeCipher, key_id_of
from database.crypto.master_keys import KeyFile, read_keys
from database.engine import reading
from database.tables import DIGEST_KEY, TOKEN_KEYS, FaceSettingRecord, SubjectRecord


def open_cipher(settings: Settings, engine: Engine) -> EnvelopeCipher:
    """The cipher with the keys of this installation; without any while the right ones are missing.

    The key file is created if no keys are set and nothing in the database is encrypted.

    Raises:
        ValueError: The keys are malformed, or others can read the file.
        OSError: The file cannot be read or created.
        Unavailable: The database does not answer.
    """
    if settings.faces_keys is not None:
        return EnvelopeCipher(read_keys(settings.faces_keys.get_secret_value()))
    file = KeyFile(settings.face_keys_file)
    if not file.exists():
        with reading(engine) as session:
            needed = sealing_key_ids(session)
        if not needed:
            file.create()
    return EnvelopeCipher.of_file(file)


def sealing_key_ids(session: Session) -> set[str]:
    """The ids of the master keys that subjects and settings are encrypted with."""
    existing = inspect(session.connection()).get_table_names()
    if SubjectRecord.__tablename__ not in existing:
        return set()
    ids = set(session.scalars(select(SubjectRecord.key_id).distinct()))
    row = FaceSettingRecord
    query = select(row.value).where(row.key.in_((TOKEN_KEYS, DIGEST_KEY)))
    for value in session.scalars(query):
        for part in (value, *value.get("keys", ())):
            ids.update(_key_ids(part.get("sealed")))
    return ids


def _key_ids(sealed: str | None) -> Iterator[str]:
    if sealed is not None:
        with suppress(DecryptionError):
            yield key_id_of(base64.b64decode(sealed))

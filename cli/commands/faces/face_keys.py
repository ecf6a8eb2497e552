"""`opsin faces rotate` and `rotate-token-key`: new keys, on this machine."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from cli.output import CommandError, as_command_error, notes, waiting
from cli.settings import load
from cli.startup import migrate
from contracts.settings import Settings
from database.crypto.envelope import DecryptionError
from database.crypto.master_keys import KeyFile
from database.engine import open_engine
from database.faces.repositories import FaceRepositories

_AT_ONCE = 500


def rotate() -> None:
    """Encrypt all face data under a new key; with OPSIN_FACES_KEYS, under the first of those.

    A running service uses the new key at once. Older keys stay, since backups need them.
    """
    settings = load()
    with _described_errors():
        migrate(settings)
        if settings.faces_keys is None:
            _add_key(settings)
        with _open_faces(settings) as faces:
            count = _reencrypt(faces)
            faces.token_keys.reencrypt()
            faces.keyed_hash.reencrypt()
    notes().print(f"[green]✓[/] {count} subjects are encrypted by {faces.cipher.key_id}")


def rotate_token_key() -> None:
    """Sign login tokens with a new key from now on; tokens already issued stay valid.

    The public half of the previous key stays at /.well-known/jwks.json until the last token it
    signed has expired.
    """
    settings = load()
    with _described_errors():
        migrate(settings)
        with _open_faces(settings) as faces:
            key_id = faces.token_keys.rotate()
    notes().print(f"[green]✓[/] tokens are signed by {key_id}")


def _add_key(settings: Settings) -> None:
    file = KeyFile(settings.face_keys_file)
    added = file.add()
    # What is encrypted by a key that is not in the file is lost.
    if added not in file.read():
        raise CommandError("The key file was changed meanwhile. Rotate again.")


@contextmanager
def _open_faces(settings: Settings) -> Iterator[FaceRepositories]:
    engine = open_engine(settings.database)
    try:
        yield FaceRepositories.of(settings, engine, lambda: datetime.now(UTC))
    finally:
        engine.dispose()


@contextmanager
def _described_errors() -> Iterator[None]:
    with as_command_error():
        try:
            yield
        except (ValueError, OSError, DecryptionError) as error:
            raise CommandError(f"The keys of faces: {error}.") from None


def _reencrypt(faces: FaceRepositories) -> int:
    count = 0
    with waiting(notes(), "Encrypting") as update:
        while step := faces.subjects.reencrypt(limit=_AT_ONCE):
            count += step
            update(f"Encrypting: {count}")
    return count

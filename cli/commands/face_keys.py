"""`opsin faces rotate`: a fresh master key for all that is sealed of faces, on this machine."""

from datetime import UTC, datetime

from cli.migrate import migrate
from cli.output import CommandError, notes, waiting
from contracts.errors import OpsinError
from contracts.settings import Settings
from database.crypto.envelope import SealError
from database.crypto.master_keys import KeyFile
from database.engine import open_engine
from database.faces.faces import Faces

_AT_ONCE = 500


def rotate(settings: Settings) -> None:
    """Seals every subject's data key, and the keys that sign tokens, anew.

    A service that runs goes on, and seals by it at once. The older keys stay, since backups are
    sealed by them.

    Raises:
        CommandError: A key is missing, or the database does not answer.
    """
    try:
        migrate(settings)
        if settings.faces_keys is None:
            file = KeyFile(settings.face_keys_file)
            added = file.add()
            # Whatever is sealed by a key that is not in the file is lost.
            if added not in file.read():
                raise CommandError("The keys' file was changed meanwhile. Rotate again.")
        engine = open_engine(settings.database)
        try:
            faces = Faces.of(settings, engine, lambda: datetime.now(UTC))
            count = _reseal(faces)
            faces.token_keys.reseal()
            faces.digests.reseal()
        finally:
            engine.dispose()
    except OpsinError as error:
        raise CommandError(error.detail) from None
    except (ValueError, OSError, SealError) as error:
        raise CommandError(f"The keys of faces: {error}.") from None
    notes().print(f"[green]✓[/] {count} subjects are sealed by {faces.sealer.key_id}")


def rotate_token_key(settings: Settings) -> None:
    """Signs the tokens of logins by a fresh key from now on.

    The public half of the one before stays at `/.well-known/jwks.json` until the last token that
    it signed has ended.

    Raises:
        CommandError: A master key is missing, or the database does not answer.
    """
    try:
        migrate(settings)
        engine = open_engine(settings.database)
        try:
            key_id = Faces.of(settings, engine, lambda: datetime.now(UTC)).token_keys.rotate()
        finally:
            engine.dispose()
    except OpsinError as error:
        raise CommandError(error.detail) from None
    except (ValueError, SealError) as error:
        raise CommandError(f"The keys of faces: {error}.") from None
    notes().print(f"[green]✓[/] tokens are signed by {key_id}")


def _reseal(faces: Faces) -> int:
    count = 0
    with waiting(notes(), "Sealing anew") as tell:
        while step := faces.subjects.reseal(most=_AT_ONCE):
            count += step
            tell(f"Sealing anew: {count}")
    return count

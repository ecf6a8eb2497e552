"""Whether the keys are here that the data of enrolled people, and two settings, need."""

from collections.abc import Iterator

from cli.checks.check import Check
from contracts.errors import OpsinError
from contracts.settings import Settings


def face_keys(settings: Settings) -> Iterator[Check]:
    """Compare the keys with those that are needed, such as after a restore without secrets."""
    if settings.database_url is None and not (settings.home / "opsin.db").exists():
        return
    from sqlalchemy.exc import SQLAlchemyError  # slow to load

    try:
        needed = needed_keys(settings)
        missing = sorted(needed - present_keys(settings))
    except (OpsinError, SQLAlchemyError, ValueError, OSError):
        return  # the checks of the database and of the secrets say what is wrong
    if not needed:
        return
    if not missing:
        yield Check("face keys", "ok", "all that face data needs are here")
        return
    yield Check(
        "face keys",
        "fail",
        f"missing: {', '.join(missing)}. People who were enrolled with them cannot be "
        "recognized, and enrollment and login may be impossible",
        f"Add their lines to {place_of_keys(settings)}; a backup holds them only if it was made "
        "with --secrets. If they are lost for good, `opsin faces replace-lost-keys` replaces them.",
    )


def place_of_keys(settings: Settings) -> str:
    """Where the keys are read: the name of the setting, or the path of the file."""
    return str(settings.face_keys_file) if settings.faces_keys is None else "OPSIN_FACES_KEYS"


def needed_keys(settings: Settings) -> set[str]:
    """The ids of the keys that something in the database is encrypted with; it exists."""
    from database.crypto.cipher import sealing_key_ids
    from database.engine import open_engine, reading

    engine = open_engine(settings.database)
    try:
        with reading(engine) as session:
            return sealing_key_ids(session)
    finally:
        engine.dispose()


def present_keys(settings: Settings) -> set[str]:
    """The ids of the keys; the file is not created."""
    from database.crypto.master_keys import KeyFile, read_keys

    if settings.faces_keys is not None:
        return {key.id for key in read_keys(settings.faces_keys.get_secret_value())}
    if not settings.face_keys_file.exists():
        return set()
    return {key.id for key in KeyFile(settings.face_keys_file).read()}

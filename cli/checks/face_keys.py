"""Whether the keys are here that the data of the enrolled people is encrypted with."""

from collections.abc import Iterator

from cli.checks.check import Check
from contracts.errors import OpsinError
from contracts.settings import Settings


def face_keys(settings: Settings) -> Iterator[Check]:
    """Compare the keys with those that subjects need, such as after a restore without secrets."""
    if settings.database_url is None and not (settings.home / "opsin.db").exists():
        return
    from sqlalchemy.exc import SQLAlchemyError  # slow to load

    try:
        needed = _needed(settings)
        missing = sorted(needed - _present(settings))
    except (OpsinError, SQLAlchemyError, ValueError, OSError):
        return  # the checks of the database and of the secrets say what is wrong
    if not needed:
        return
    if not missing:
        yield Check("face keys", "ok", "all that enrolled people need are here")
        return
    where = settings.face_keys_file if settings.faces_keys is None else "OPSIN_FACES_KEYS"
    yield Check(
        "face keys",
        "fail",
        f"missing: {', '.join(missing)}. People who were enrolled with them cannot be recognized",
        f"Add their lines to {where}; a backup holds them only if it was made with --secrets.",
    )


def _needed(settings: Settings) -> set[str]:
    from sqlalchemy import select

    from database.engine import open_engine, reading
    from database.tables import SubjectRecord

    engine = open_engine(settings.database)
    try:
        with reading(engine) as session:
            return set(session.scalars(select(SubjectRecord.key_id).distinct()))
    finally:
        engine.dispose()


def _present(settings: Settings) -> set[str]:
    """The ids of the keys; the file is not created."""
    from database.crypto.master_keys import KeyFile, read_keys

    if settings.faces_keys is not None:
        return {key.id for key in read_keys(settings.faces_keys.get_secret_value())}
    if not settings.face_keys_file.exists():
        return set()
    return {key.id for key in KeyFile(settings.face_keys_file).read()}

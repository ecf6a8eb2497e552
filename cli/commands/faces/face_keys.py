"""`opsin faces rotate`, `rotate-token-key` and `replace-lost-keys`: new keys, on this machine."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

from sqlalchemy import Engine

from cli.checks.face_keys import present_keys
from cli.options import Yes
from cli.output import CommandError, answers, confirm, counted, notes, waiting, warn
from cli.settings import load
from cli.startup import open_database
from cli.streams import shown
from contracts.settings import Settings
from contracts.wording import few
from database.audit import COMMAND, Audit
from database.crypto.cipher import sealing_key_ids
from database.crypto.envelope import DecryptionError
from database.crypto.master_keys import KeyFile
from database.engine import reading
from database.faces.repositories import FaceRepositories

_AT_ONCE = 500


def rotate() -> None:
    """Encrypt all face data under a new key; with OPSIN_FACES_KEYS, under the first of those.

    A running service uses the new key at once. Older keys stay, since backups need them.
    """
    settings = load()
    with _described_errors(), open_database(settings) as engine:
        faces = FaceRepositories.of(settings, engine, _now)
        if faces.cipher.key_id and (lost := _lost_keys(engine, settings)):
            raise CommandError(
                f"The keys {', '.join(sorted(lost))} are missing. Add them below the present "
                "ones, or see `opsin faces replace-lost-keys`."
            )
        if settings.faces_keys is None:
            _add_key(settings)
        count, damaged = _reencrypt(faces)
        faces.token_keys.reencrypt()
        faces.keyed_hash.reencrypt()
        Audit(engine, _now).write(COMMAND, "face_keys_rotated", faces.cipher.key_id)
    notes().print(f"[green]✓[/] {count} subjects are encrypted by {faces.cipher.key_id}")
    if damaged:
        raise CommandError(
            f"The keys of {counted(len(damaged), 'subject')} are damaged, so their templates "
            f"cannot be read: {few(damaged)}. Erase and enroll them again."
        )


def rotate_token_key() -> None:
    """Sign login tokens with a new key from now on; tokens already issued stay valid.

    The public half of the previous key stays at /.well-known/jwks.json until the last token it
    signed has expired.
    """
    settings = load()
    with _described_errors(), open_database(settings) as engine:
        key_id = FaceRepositories.of(settings, engine, _now).token_keys.rotate()
        Audit(engine, _now).write(COMMAND, "token_key_rotated", key_id)
    notes().print(f"[green]✓[/] tokens are signed by {key_id}")


def replace_lost_keys(yes: Yes = False) -> None:
    """Go on without master keys that are lost for good, and print who must be enrolled again.

    Such as after `opsin restore` of a backup without --secrets. With OPSIN_FACES_KEYS, set a new
    key there first. A service that has started without the keys goes on at once.
    """
    settings = load()
    with _described_errors(), open_database(settings) as engine:
        lost = _lost_keys(engine, settings)
        if not lost:
            raise CommandError("No key is missing. `opsin faces rotate` changes a key.")
        subjects = FaceRepositories.of(settings, engine, _now).subjects
        people = subjects.encrypted_by(lost)
        confirm(
            f"The missing keys are {', '.join(sorted(lost))}. Without them "
            f"{counted(len(people), 'subject')} can be neither recognized nor exported, and tokens "
            "of logins end now. Replace them?",
            yes=yes,
        )
        if settings.faces_keys is None:
            KeyFile(settings.face_keys_file).create()
        faces = FaceRepositories.of(settings, engine, _now)
        faces.token_keys.replace_lost()
        faces.keyed_hash.replace_lost()
        subject = f"{', '.join(sorted(lost))} by {faces.cipher.key_id}"
        Audit(engine, _now).write(COMMAND, "face_keys_replaced", subject)
    notes().print(f"[green]✓[/] what is new is encrypted by {faces.cipher.key_id}")
    _print_lost(people)


def _print_lost(people: Sequence[tuple[str, str]]) -> None:
    if not people:
        return
    for subject_id, name in people:
        answers().print(f"{subject_id}  {shown(name)}", markup=False)
    warn(
        notes(),
        f"{counted(len(people), 'subject')} must be enrolled again: `opsin faces erase` and "
        "`opsin faces enroll`. Should the keys be found, add their lines below the present "
        "ones instead.",
    )


def _add_key(settings: Settings) -> None:
    file = KeyFile(settings.face_keys_file)
    added = file.add()
    # What is encrypted by a key that is not in the file is lost.
    if added not in file.read():
        raise CommandError("The key file was changed meanwhile. Rotate again.")


@contextmanager
def _described_errors() -> Iterator[None]:
    try:
        yield
    except (ValueError, OSError, DecryptionError) as error:
        raise CommandError(f"The keys of faces: {error}.") from None


def _now() -> datetime:
    return datetime.now(UTC)


def _lost_keys(engine: Engine, settings: Settings) -> set[str]:
    """The master keys that something is encrypted by and that are not here."""
    with reading(engine) as session:
        return sealing_key_ids(session) - present_keys(settings)


def _reencrypt(faces: FaceRepositories) -> tuple[int, set[str]]:
    """Encrypt all data keys; returns how many, and the subjects whose keys are damaged."""
    count, damaged = 0, set[str]()
    with waiting(notes(), "Encrypting") as update:
        for _ in range(2):  # again, for those whose key was made before the new master key
            last = ""
            while (step := faces.subjects.reencrypt(after=last, limit=_AT_ONCE)).last:
                last = step.last
                count += step.count
                damaged.update(step.damaged)
                update(f"Encrypting: {count}")
    return count, damaged

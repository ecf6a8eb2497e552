"""Who may use this machine's service, and the key that the command line uses by itself.

`$OPSIN_HOME/cli.key` holds an admin key that only the owner of the home can read. Whoever can read
the home can read the database too, so the key exposes nothing more. Commands send it to this
machine's own service only, never to a server that `--server` names.
"""

import hmac
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cli.output import CommandError
from contracts.keys import KEY_PATTERN, KeyInfo, NewKey, key_id_of
from contracts.settings import Settings

if TYPE_CHECKING:
    from database.keys import Keys, KeySnapshot

State = Literal["open", "keyed", "locked"]

MAKE_CLI_KEY = "`opsin keys cli` makes one for the commands on this machine."


@dataclass(frozen=True, slots=True)
class Access:
    """Who is let in.

    Attributes:
        state: open: everyone on this machine, without a key; keyed: whoever has a key; locked:
            no one, because keys are required and none of them is valid.
        cli_key: The key that commands use, if it works; None for OPSIN_API_KEY or without one.
    """

    state: State
    cli_key: KeyInfo | None = None


def locked_text(settings: Settings) -> str:
    """What to do where keys are required and none works."""
    text = f"No key works, so every request is refused. {MAKE_CLI_KEY}"
    if settings.is_loopback:
        text += " `opsin keys open` lets this machine in without a key again."
    return text


def cli_key_file(home: Path) -> Path:
    """Where the command line's own key is."""
    return home / "cli.key"


def read_cli_key(home: Path) -> str | None:
    """The command line's own key; None if there is none."""
    try:
        text = cli_key_file(home).read_text("ascii").strip()
    except (OSError, UnicodeError):
        return None
    return text if KEY_PATTERN.fullmatch(text) else None


def write_cli_key(home: Path, key: str) -> Path:
    """Store the command line's own key, readable by the owner only; the file is replaced whole.

    Raises:
        CommandError: It cannot be written.
    """
    file = cli_key_file(home)
    draft = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as content:
            content.write(f"{key}\n")
        draft.replace(file)
    except OSError as error:
        raise CommandError(f"{file} cannot be written ({error.strerror}).") from None
    finally:
        draft.unlink(missing_ok=True)
    return file


def make_cli_key(keys: "Keys", home: Path) -> Path:
    """Create an admin key for the command line, and revoke the one that it replaces.

    Raises:
        CommandError: It cannot be stored; then it is revoked.
    """
    from contracts.errors import NotFound
    from database.audit import COMMAND  # SQLAlchemy

    before = read_cli_key(home)
    new = NewKey(name="command line on this machine", scopes=["admin"])
    made = keys.create(new, actor=COMMAND)
    try:
        file = write_cli_key(home, made.key or "")
    except CommandError:
        keys.revoke(made.id, actor=COMMAND)
        raise
    if before is not None and (match := KEY_PATTERN.fullmatch(before)):
        with suppress(NotFound):  # of another database
            keys.revoke(key_id_of(match[1]), actor=COMMAND)
    return file


def access(settings: Settings) -> Access:
    """Who is let in now, by the database; it is only read, and need not exist.

    Raises:
        OpsinError, SQLAlchemyError: The database cannot be read.
    """
    if settings.database_url is None and not (settings.home / "opsin.db").exists():
        return access_of(settings, None, datetime.now(UTC))
    with _keys(settings) as keys:
        return access_of(settings, keys.snapshot(), datetime.now(UTC))


def access_of(settings: Settings, snapshot: "KeySnapshot | None", now: datetime) -> Access:
    """Who is let in by the keys of one moment."""
    if settings.api_key is not None:
        return Access("keyed")
    live = {
        key_id: stored
        for key_id, stored in (snapshot.keys if snapshot else {}).items()
        if stored.info.expires_at is None or stored.info.expires_at > now
    }
    if not live:
        unused = snapshot is None or snapshot.ever_created == 0
        return Access("open" if unused and settings.is_loopback else "locked")
    key = read_cli_key(settings.home)
    match = KEY_PATTERN.fullmatch(key or "")
    stored = live.get(key_id_of(match[1])) if match else None
    if key is None or stored is None or not hmac.compare_digest(stored.digest, _digest(key)):
        return Access("keyed")
    return Access("keyed", stored.info)


def _digest(key: str) -> bytes:
    from database.keys import digest_of

    return digest_of(key)


@contextmanager
def _keys(settings: Settings) -> "Iterator[Keys]":
    from database.engine import open_engine
    from database.keys import Keys

    engine = open_engine(settings.database)
    try:
        yield Keys(engine, lambda: datetime.now(UTC))
    finally:
        engine.dispose()

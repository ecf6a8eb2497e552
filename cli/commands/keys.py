"""`opsin keys`: who may use the service.

It works on the database of this machine, so no server has to run, and no key is needed to make the
first: who can read the database owns all that is in it. A running service knows within a second.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import ParamSpec, TypeVar

from pydantic import ValidationError
from rich.markup import escape
from rich.table import Table
from sqlalchemy.exc import ProgrammingError

from cli.migrate import migrate
from cli.output import CommandError, answers, notes
from contracts.errors import OpsinError, Unavailable
from contracts.keys import LONGEST_GRACE, SCOPES, KeyInfo, MadeKey, NewKey
from contracts.settings import Settings
from database.audit import COMMAND
from database.engine import open_engine
from database.keys import Keys

P = ParamSpec("P")
T = TypeVar("T")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def create(
    settings: Settings, name: str, scopes: list[str], expires: str | None, rate: int | None
) -> None:
    """Makes a key and prints it, alone on stdout; it is never shown again.

    Raises:
        CommandError: Something of it makes no sense.
    """
    ends = None if expires is None else datetime.now(UTC) + duration(expires)
    try:
        new = NewKey.model_validate(
            {"name": name, "scopes": scopes, "expires_at": ends, "rate_per_minute": rate}
        )
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise CommandError(
            f"{fault['loc'][0]}: {fault['msg']}. Scopes are {', '.join(SCOPES)}.", exit_code=2
        ) from None
    with _opened(settings) as keys:
        _show_made(_told(keys.create, new, by=COMMAND))


def rotate(settings: Settings, key_id: str, grace: str) -> None:
    """Makes a key that may do what the old one may, which ends after `grace`."""
    left = duration(grace)
    if left > LONGEST_GRACE:
        raise CommandError(f"--grace may be {LONGEST_GRACE.days}d at most.", exit_code=2)
    with _opened(settings) as keys:
        _show_made(_told(keys.rotate, key_id, left, by=COMMAND))
    notes().print(f"{escape(key_id)} works for another {grace}", markup=False)


def revoke(settings: Settings, key_id: str) -> None:
    """Ends a key for good."""
    with _opened(settings) as keys:
        _told(keys.revoke, key_id, by=COMMAND)
    notes().print(f"[green]✓[/] {escape(key_id)} is revoked")


def show(settings: Settings) -> None:
    """Prints all keys, newest first; their secrets are not kept."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("id", no_wrap=True, min_width=len("key_") + 12)  # what is copied stays whole
    for heading in ("name", "scopes", "a minute", "state", "last used"):
        table.add_column(heading)
    with _opened(settings) as keys:
        cursor = None
        while True:
            page = _told(keys.list, limit=200, cursor=cursor)
            for info in page.items:
                table.add_row(
                    *(info.id, escape(info.name), ", ".join(info.scopes)),
                    str(info.rate_per_minute or "-"),
                    _state(info, datetime.now(UTC)),
                    "-" if info.last_used_at is None else f"{info.last_used_at:%Y-%m-%d %H:%M}",
                )
            cursor = page.next_cursor
            if cursor is None:
                break
    if not table.rows:
        raise CommandError("There is no key yet: opsin keys create NAME --scope infer")
    answers().print(table)


def live_keys(settings: Settings) -> bool:
    """Whether there is a key in the database that works now. It only looks."""
    if settings.database_url is None and not (settings.home / "opsin.db").exists():
        return False
    engine = open_engine(settings.database)
    try:
        snapshot = Keys(engine, lambda: datetime.now(UTC)).snapshot()
    except (Unavailable, ProgrammingError):  # the second: PostgreSQL without our tables
        return False
    finally:
        engine.dispose()
    now = datetime.now(UTC)
    stored = snapshot.keys.values() if snapshot else ()
    return any(one.info.expires_at is None or one.info.expires_at > now for one in stored)


def duration(text: str) -> timedelta:
    """A time such as `12h`, `90d` or `2w`.

    Raises:
        CommandError: It is none, or longer than a hundred years.
    """
    found = re.fullmatch(r"([0-9]{1,6})([mhdw])", text)
    length = timedelta(**{_UNITS[found[2]]: int(found[1])}) if found else None
    if length is None or length > timedelta(days=36_500):
        raise CommandError(f"'{text}' is no time; write 30m, 12h, 90d or 2w.", exit_code=2)
    return length


def _show_made(made: MadeKey) -> None:
    notes().print(
        f"[green]✓[/] {made.id} for {escape(made.name)} may {', '.join(made.scopes)}. "
        "Write it down; it is not shown again:"
    )
    answers().print(made.key, markup=False)


def _state(info: KeyInfo, now: datetime) -> str:
    if info.revoked_at is not None:
        return f"[red]revoked {info.revoked_at:%Y-%m-%d}[/]"
    if info.expires_at is None:
        return "[green]works[/]"
    if info.expires_at <= now:
        return f"[red]expired {info.expires_at:%Y-%m-%d}[/]"
    return f"[green]works[/] until {info.expires_at:%Y-%m-%d %H:%M}"


@contextmanager
def _opened(settings: Settings) -> Iterator[Keys]:
    _told(migrate, settings)
    engine = open_engine(settings.database)
    try:
        yield Keys(engine, lambda: datetime.now(UTC))
    finally:
        engine.dispose()


def _told(action: Callable[P, T], /, *arguments: P.args, **options: P.kwargs) -> T:
    """The result of a call; what it objects to becomes the command's one line."""
    try:
        return action(*arguments, **options)
    except OpsinError as error:
        raise CommandError(error.detail) from None

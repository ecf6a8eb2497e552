"""`opsin keys`: who may use the service.

It works on this machine's database, so no server has to run and no key is needed to make the first:
a user who can read the database owns everything in it. A running service sees a change within a
second.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.markup import escape

from cli.output import CommandError, answers, as_command_error, notes, plain_table
from cli.settings import load
from cli.startup import migrate
from contracts.keys import MAX_GRACE, SCOPES, KeyInfo, MadeKey, NewKey
from database.audit import COMMAND
from database.engine import open_engine
from database.keys import Keys

KeyId = Annotated[str, typer.Argument(metavar="KEY", help="Its id, as `opsin keys list` shows it.")]

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}

app = typer.Typer()


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="A label that says whose key it is.")],
    scope: Annotated[
        list[str], typer.Option(help="infer, train, faces, models or admin; repeat for several.")
    ],
    expires: Annotated[str | None, typer.Option(help="After 12h, 90d, 2w. Default: never.")] = None,
    rate: Annotated[
        int | None, typer.Option(min=1, help="Requests a minute at most. Default: no limit.")
    ] = None,
) -> None:
    """Make a key; it is printed once. Once there is a key, every request needs one."""
    ends = None if expires is None else datetime.now(UTC) + parse_duration(expires)
    try:
        new = NewKey.model_validate(
            {"name": name, "scopes": scope, "expires_at": ends, "rate_per_minute": rate}
        )
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise CommandError(
            f"{fault['loc'][0]}: {fault['msg']}. Scopes are {', '.join(SCOPES)}.", exit_code=2
        ) from None
    with _open_keys() as keys:
        _print_key(keys.create(new, actor=COMMAND))


@app.command("list")
def list_keys() -> None:
    """Show all keys, without their secrets."""
    table = plain_table()
    table.add_column("id", no_wrap=True, min_width=len("key_") + 12)  # so that it can be copied
    for heading in ("name", "scopes", "a minute", "state", "last used"):
        table.add_column(heading)
    with _open_keys() as keys:
        cursor = None
        while True:
            page = keys.list(limit=200, cursor=cursor)
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


@app.command()
def rotate(
    key_id: KeyId,
    grace: Annotated[str, typer.Option(help="How long the old key still works.")] = "24h",
) -> None:
    """Make a new key with an old one's scopes, and let the old one expire."""
    remaining = parse_duration(grace)
    if remaining > MAX_GRACE:
        raise CommandError(f"--grace may be {MAX_GRACE.days}d at most.", exit_code=2)
    with _open_keys() as keys:
        _print_key(keys.rotate(key_id, remaining, actor=COMMAND))
    notes().print(f"{escape(key_id)} works for another {grace}", markup=False)


@app.command()
def revoke(key_id: KeyId) -> None:
    """End a key for good, within a second."""
    with _open_keys() as keys:
        keys.revoke(key_id, actor=COMMAND)
    notes().print(f"[green]✓[/] {escape(key_id)} is revoked")


def parse_duration(text: str) -> timedelta:
    """A duration such as `12h`, `90d` or `2w`.

    Raises:
        CommandError: It is malformed, or longer than a hundred years.
    """
    match = re.fullmatch(r"([0-9]{1,6})([mhdw])", text)
    length = timedelta(**{_UNITS[match[2]]: int(match[1])}) if match else None
    if length is None or length > timedelta(days=36_500):
        raise CommandError(f"'{text}' is not a duration; write 30m, 12h, 90d or 2w.", exit_code=2)
    return length


@contextmanager
def _open_keys() -> Iterator[Keys]:
    settings = load()
    with as_command_error():
        migrate(settings)
        engine = open_engine(settings.database)
        try:
            yield Keys(engine, lambda: datetime.now(UTC))
        finally:
            engine.dispose()


def _print_key(made: MadeKey) -> None:
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

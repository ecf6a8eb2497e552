"""`opsin keys`: who may use the service.

It works on this machine's database, so no server has to run and no key is needed to make the first:
a user who can read the database owns everything in it. A running service is notified of changes.
"""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.markup import escape
from rich.text import Text

from cli.access import (
    MAKE_CLI_KEY,
    Access,
    access_of,
    cli_key_file,
    locked_text,
    make_cli_key,
    write_cli_key,
)
from cli.announcing import announce_change
from cli.options import Json, Yes
from cli.output import (
    CommandError,
    answers,
    confirm,
    confirm_on_terminal,
    counted,
    notes,
    print_json,
    warn,
)
from cli.settings import load
from cli.startup import open_database
from cli.streams import shown
from cli.tables import Column, local_time, print_list
from contracts.keys import MAX_GRACE, SCOPES, KeyInfo, MadeKey, NewKey
from contracts.settings import Settings
from database.audit import COMMAND
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
    cli_key: Annotated[
        bool | None,
        typer.Option(
            "--cli-key/--no-cli-key",
            help="With the first key: also make an admin key for the commands on this machine. "
            "Default: ask; without a terminal, make it.",
        ),
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
            _fault_text(str(fault["loc"][0]), fault["msg"], scope), exit_code=2
        ) from None
    with _open_keys(announce=True) as (settings, keys):
        if _access(settings, keys).state == "open":
            _before_first_key(settings, keys, cli_key)
        elif cli_key:
            _print_cli_key(make_cli_key(keys, settings.home))
        _print_key(keys.create(new, actor=COMMAND))
        if _access(settings, keys).cli_key is None and settings.api_key is None:
            warn(notes(), f"The commands on this machine have no key. {MAKE_CLI_KEY}")


def _fault_text(field: str, message: str, scopes: list[str]) -> str:
    if field != "scopes":
        return f"{field}: {message}."
    wrong = ", ".join(name for name in scopes if name not in SCOPES)
    fault = f"No such scope: {wrong}" if wrong else f"scopes: {message}"
    return f"{fault}. Scopes are {', '.join(SCOPES)}."


@app.command("list")
def list_keys(as_json: Json = False) -> None:
    """Show all keys, without their secrets."""
    with _open_keys() as (settings, keys):
        infos = _all(keys)
        own = _access(settings, keys).cli_key
    if as_json:
        print_json({"items": [info.model_dump(mode="json") for info in infos]})
        return
    if not infos:
        notes().print("There is no key: opsin keys create NAME --scope infer makes one.")
        return
    columns = [
        *(
            Column("id", "id"),
            Column("name"),
            Column("scopes"),
            Column("requests a minute", "number"),
        ),
        *(Column("state"), Column("last used", "time")),
    ]
    print_list(
        columns,
        [
            (
                *(info.id, info.name, ", ".join(info.scopes)),
                *(str(info.rate_per_minute or "-"), _state(info, datetime.now(UTC))),
                "-" if info.last_used_at is None else local_time(info.last_used_at),
            )
            for info in infos
        ],
    )
    if own is not None:
        notes().print(f"[dim]{own.id} is in {escape(shown(cli_key_file(settings.home)))}[/]")


@app.command()
def rotate(
    key_id: KeyId,
    grace: Annotated[str, typer.Option(help="How long the old key still works.")] = "24h",
) -> None:
    """Make a new key with an old one's scopes, and let the old one expire."""
    remaining = parse_duration(grace)
    if remaining > MAX_GRACE:
        raise CommandError(f"--grace may be {MAX_GRACE.days}d at most.", exit_code=2)
    with _open_keys(announce=True) as (settings, keys):
        own = _access(settings, keys).cli_key
        made = keys.rotate(key_id, remaining, actor=COMMAND)
        if own is not None and own.id == key_id:
            _print_cli_key(write_cli_key(settings.home, made.key or ""))
        _print_key(made)
    notes().print(f"{escape(key_id)} works for another {grace}", markup=False)


@app.command()
def revoke(key_id: KeyId, yes: Yes = False) -> None:
    """End a key for good, at once. The service does not become open again."""
    with _open_keys(announce=True) as (settings, keys):
        confirm_on_terminal(f"Revoke {key_id} for good?", yes=yes)
        own = _access(settings, keys).cli_key
        keys.revoke(key_id, actor=COMMAND)
        notes().print(f"[green]✓[/] {escape(key_id)} is revoked")
        if _access(settings, keys).state == "locked":
            warn(notes(), locked_text(settings))
        elif own is not None and own.id == key_id:
            warn(notes(), f"It was that of the commands on this machine. {MAKE_CLI_KEY}")


@app.command()
def cli() -> None:
    """Make an admin key that the commands on this machine use by themselves.

    It is kept in $OPSIN_HOME/cli.key, which only its owner can read, and replaces an earlier one.
    """
    with _open_keys(announce=True) as (settings, keys):
        if _access(settings, keys).state == "open":
            _announce(settings)
        _print_cli_key(make_cli_key(keys, settings.home))


@app.command("open")
def open_service(yes: Yes = False) -> None:
    """Revoke all keys, so that this machine needs none again.

    Only on a loopback address, and without OPSIN_API_KEY.
    """
    with _open_keys(announce=True) as (settings, keys):
        if settings.api_key is not None:
            raise CommandError("OPSIN_API_KEY is set, and it is a key. Remove it first.")
        if not settings.is_loopback:
            raise CommandError(
                f"OPSIN_HOST={settings.host} can be reached from other machines, so a key is "
                "required. Set OPSIN_HOST=127.0.0.1 first."
            )
        live = [info for info in _all(keys) if _works(info, datetime.now(UTC))]
        what = f"{counted(len(live), 'key')} that work{'s' if len(live) == 1 else ''} will be "
        question = f"{what}revoked, and every program on this machine may do everything. Go on?"
        confirm(question, yes=yes)
        keys.reopen(actor=COMMAND)
        cli_key_file(settings.home).unlink(missing_ok=True)
    notes().print("[green]✓[/] no key is needed on this machine")


def _before_first_key(settings: Settings, keys: Keys, cli_key: bool | None) -> None:
    """Say what the first key changes, and see to it that the command line keeps working."""
    _announce(settings)
    if cli_key is None:
        cli_key = not sys.stdin.isatty() or typer.confirm(
            "Make an admin key for the commands on this machine first?", default=True, err=True
        )
    if cli_key:
        _print_cli_key(make_cli_key(keys, settings.home))


def _announce(settings: Settings) -> None:
    back = " `opsin keys open` takes that back." if settings.is_loopback else ""
    warn(
        notes(),
        f"This is the first key. From now on every request needs one, also on this machine.{back}",
    )


def _print_cli_key(file: Path) -> None:
    notes().print(
        f"[green]✓[/] the commands on this machine use the admin key in {escape(shown(file))}"
    )


def _access(settings: Settings, keys: Keys) -> Access:
    return access_of(settings, keys.snapshot(), datetime.now(UTC))


def _all(keys: Keys) -> list[KeyInfo]:
    infos: list[KeyInfo] = []
    cursor = None
    while True:
        page = keys.list(limit=200, cursor=cursor)
        infos += page.items
        cursor = page.next_cursor
        if cursor is None:
            return infos


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
def _open_keys(*, announce: bool = False) -> Iterator[tuple[Settings, Keys]]:
    """The settings and the keys; `announce` tells a running service of the block's changes."""
    settings = load()
    with open_database(settings) as engine:
        yield settings, Keys(engine, lambda: datetime.now(UTC))
    if announce:
        announce_change(settings, "keys")


def _print_key(made: MadeKey) -> None:
    notes().print(
        f"[green]✓[/] {made.id} for {escape(made.name)} may use: {', '.join(made.scopes)}. "
        "Copy it now; it is not shown again:"
    )
    answers().print(made.key, markup=False)


def _works(info: KeyInfo, now: datetime) -> bool:
    return info.revoked_at is None and (info.expires_at is None or info.expires_at > now)


def _state(info: KeyInfo, now: datetime) -> Text:
    if info.revoked_at is not None:
        return Text(f"revoked {info.revoked_at:%Y-%m-%d}", "red")
    if info.expires_at is None:
        return Text("works", "green")
    if info.expires_at <= now:
        return Text(f"expired {info.expires_at:%Y-%m-%d}", "red")
    return Text(f"works until {info.expires_at:%Y-%m-%d %H:%M}", "green")

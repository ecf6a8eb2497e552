"""`opsin backup` and `opsin restore`, for the person at the terminal."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from cli.backup import placing
from cli.backup.contents import AREAS, DATABASE, SECRETS, Header
from cli.backup.databases import kind_of, load_postgresql, sqlite_path, staged
from cli.backup.packing import Told, header_of, pack
from cli.backup.placing import report_kept
from cli.backup.snapshot import snapshot
from cli.backup.unpacking import opened, unpack
from cli.clients.api import Api
from cli.home import Home
from cli.migrate import migrate
from cli.output import CommandError, notes, waiting, warn
from contracts.errors import OpsinError
from contracts.settings import Settings
from database.migrations import current, is_known

_SPARE_BYTES = 64 * 1024**2


def backup(settings: Settings, out: Path, *, secrets: bool) -> None:
    """Writes a backup; whatever runs goes on.

    Args:
        settings: Whose home.
        out: The file, which must not be there yet.
        secrets: Whether to put the keys of the faces in.

    Raises:
        CommandError: It cannot be done; nothing is left of it.
    """
    console = notes()
    if out.exists():
        raise CommandError(f"{out} is there already; choose another name, or remove it.")
    if not settings.home.is_dir():
        raise CommandError(f"There is no data home at {settings.home}. Set OPSIN_HOME.")
    _warn_of_secrets(console, settings, secrets)
    with _explained(f"Cannot write {out}"), ExitStack() as held:
        held.enter_context(Home(settings.home).shared())
        placing.require_whole(settings.home)
        with waiting(console, "Holding the home fast"):
            revision = current(settings.database)
            taken = held.enter_context(snapshot(settings, secrets=secrets))
            header = header_of(taken, revision)
            _require_room(out.absolute().parent, header.size)
        with _bar(console, "Writing", header.size) as told:
            pack(taken, header, out, told)
    console.print(
        f"[green]✓[/] {escape(str(out))}: {header.files:,} files, {header.size / 1e6:,.1f} MB. "
        "Weights are not in it: `opsin weights pull` fetches them."
    )


def restore(settings: Settings, archive: Path, *, force: bool) -> None:
    """Brings a home back to what a backup holds, or finishes what was begun of that.

    Args:
        settings: Which home; nothing may run from it.
        archive: From `backup`.
        force: Whether what is there may be moved aside.

    Raises:
        CommandError: It cannot be done; the home is as before, or the message says otherwise.
    """
    console, home = notes(), Home(settings.home)
    home.prepare()
    with _explained(f"Cannot restore to {settings.home}"), home.locked(), home.alone():
        placed = placing.finish(settings.home)
        report_kept(placed, console)
        try:
            with opened(archive) as (header, sha256, tar):
                if placed is None or placed.backup != sha256:
                    _require_fit(settings, header, force=force)
                    _require_room(settings.home, header.size)
                    new = placing.workshop(settings.home)
                    with _bar(console, "Reading", header.size) as told:
                        unpack(tar, header, sha256, new, told)
                    report_kept(_place(settings, header, sha256, new), console)
        finally:
            placing.dismiss(settings.home)
        if header.database is not None:
            migrate(settings)
    when = f"{header.created_at:%Y-%m-%d %H:%M} UTC"
    console.print(f"[green]✓[/] {escape(str(settings.home))} is as it was on {when}.")
    if not header.secrets and not (settings.home / SECRETS).is_dir():
        warn(
            console,
            f"The keys of faces were not in the backup. Whoever enrolled faces has to put them "
            f"back to {settings.home / SECRETS}.",
        )


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """What is the disk's or the database's fault, in one line."""
    try:
        yield
    except OpsinError as error:
        raise CommandError(error.detail) from None
    except OSError as error:
        raise CommandError(f"{what} ({error.strerror}).") from None


def _place(settings: Settings, header: Header, sha256: str, new: Path) -> placing.Placed:
    if kind_of(settings) == "sqlite":
        copy = staged(new / DATABASE, "sqlite") if header.database else None
        return placing.place(settings.home, sha256, (copy, sqlite_path(settings)))
    if header.database is not None:
        load_postgresql(settings, staged(new / DATABASE, "postgresql"))
    return placing.place(settings.home, sha256)


def _require_fit(settings: Settings, header: Header, *, force: bool) -> None:
    """Checks before anything is unpacked whether this backup may become this home."""
    kind = kind_of(settings)
    if header.database not in {None, kind}:
        raise CommandError(
            f"The backup's database is {header.database}, and OPSIN_DATABASE_URL names {kind}. "
            "Set it to the kind that was backed up."
        )
    if header.revision is not None and not is_known(header.revision):
        raise CommandError(
            f"The backup was written by Opsin {header.release}, whose tables this release does not "
            "know. Restore it with that release or a later one."
        )
    there = _what_is_there(settings)
    if there and not force:
        raise CommandError(
            f"{settings.home} is not empty: {', '.join(there)}. Set OPSIN_HOME to a new folder, or "
            "let what is there be moved aside with --force."
        )
    if there and Api(settings).is_opsin():
        raise CommandError(
            f"An Opsin answers on port {settings.port}. Stop it and its workers first; if it is "
            "not of this home, set OPSIN_PORT to another."
        )


def _what_is_there(settings: Settings) -> list[str]:
    found = [
        name
        for name in AREAS
        if any(not one.name.startswith(".") for one in _entries(settings.home / name))
    ]
    if kind_of(settings) == "sqlite":
        return found + (["the database"] if sqlite_path(settings).exists() else [])
    return found + (["the database"] if current(settings.database) is not None else [])


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _warn_of_secrets(console: Console, settings: Settings, secrets: bool) -> None:
    if not (settings.home / SECRETS).is_dir():
        return
    if secrets:
        warn(
            console,
            "The keys of faces will be in the backup: whoever has the file can read every "
            "template. Keep it as you would keep a password.",
        )
    else:
        warn(
            console,
            f"The keys of faces are not in it. Keep {settings.home / SECRETS} in another place: "
            "without them the templates in the backup can never be read.",
        )


def _require_room(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < size + _SPARE_BYTES:
        raise CommandError(
            f"{size / 1e6:,.0f} MB are needed in {folder}, and {free / 1e6:,.0f} MB are free."
        )


@contextmanager
def _bar(console: Console, what: str, total: int) -> Iterator[Told]:
    if not console.is_terminal:
        console.print(f"{what} {total / 1e6:,.1f} MB …", markup=False)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    ) as progress:
        task = progress.add_task(what, total=total)
        yield lambda count: progress.advance(task, count)

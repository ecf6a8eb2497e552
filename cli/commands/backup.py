"""`opsin backup` and `opsin restore`."""

import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tarfile import TarFile
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from cli.access import cli_key_file
from cli.backup import placing
from cli.backup.contents import AREAS, DATABASE, SECRETS, Header
from cli.backup.databases import kind_of, require_unused, sqlite_path, staged
from cli.backup.packing import header_of, pack
from cli.backup.placing import report_kept
from cli.backup.restrictions import complete_restore, note_restrictions
from cli.backup.snapshot import Snapshot, snapshot
from cli.backup.unpacking import opened, unpack
from cli.checks.face_keys import needed_keys, place_of_keys, present_keys
from cli.clients.api import Api
from cli.drafts import remove_left_over
from cli.home import Home
from cli.output import CommandError, as_command_error, errors, notes, waiting, warn
from cli.settings import load
from cli.startup import require_database, require_home, using_home
from contracts.settings import Settings
from database.crypto.master_keys import read_keys
from database.installation import home_id
from database.migrations import current, is_known

_SPARE_BYTES = 64 * 1024**2
_SHOWN = 5
_THE_DATABASE = "the database"
_NO_DATABASE = (
    "There is no database in the backup: no API keys, people, consents and settings of faces, jobs "
    "and audit log."
)


def backup(
    out: Annotated[Path, typer.Argument(metavar="OUT.tar", help="A file that does not exist yet.")],
    secrets: Annotated[
        bool,
        typer.Option("--secrets", help="Include the keys of faces; then keep the file secret."),
    ] = False,
) -> None:
    """Write database, store, datasets and jobs to one file.

    A running service keeps running.
    """
    write_backup(load(), out, secrets=secrets)


def write_backup(settings: Settings, out: Path, *, secrets: bool) -> None:
    """Write a backup; nothing is left of one that fails.

    Raises:
        CommandError: It failed, or is written but lacks the folders of some datasets, or keys of
            faces although `secrets` is set.
    """
    console = notes()
    if out.exists():
        raise CommandError(f"{out} exists already; choose another name, or remove it.")
    if not (folder := out.absolute().parent).is_dir():
        raise CommandError(f"Cannot write {out}: there is no folder {folder}.")
    if not settings.home.is_dir():
        raise CommandError(f"There is no data home at {settings.home}. Set OPSIN_HOME.")
    _warn_of_secrets(console, settings, secrets)
    with _described_errors(f"Cannot write {out}"), ExitStack() as stack:
        stack.enter_context(using_home(settings))
        for part in remove_left_over(out.absolute().parent):
            warn(console, f"{part} is an incomplete copy of a killed command; remove it.")
        with waiting(console, "Taking a snapshot"):
            revision = current(settings.database)
            require_home(settings)
            if revision is None:
                _require_files_only(console, settings)
            content = stack.enter_context(snapshot(settings, secrets=secrets))
            if current(settings.database) != revision:
                raise CommandError("The database was upgraded meanwhile. Take the backup again.")
            header = header_of(content, revision)
            _require_room(out.absolute().parent, header.size)
            lacking = _lost_datasets(settings, content) + _lost_keys(settings, content)
        with _bar(console, "Writing", header.size) as progress:
            pack(content, header, out, progress)
    if lacking:
        raise CommandError(
            f"{out} is written and can be restored, but it is not complete: {' '.join(lacking)}"
        )
    console.print(
        f"[green]✓[/] {escape(str(out))}: {header.files:,} files, {header.size / 1e6:,.1f} MB. "
        "Weights are not in it: `opsin weights pull` fetches them."
    )


def restore(
    archive: Annotated[Path, typer.Argument(metavar="BACKUP.tar", help="From `opsin backup`.")],
    force: Annotated[
        bool, typer.Option("--force", help="Move aside what is in the home already.")
    ] = False,
) -> None:
    """Restore a backup into an empty home. Nothing may be running from that home.

    Run it again to finish a restore that was interrupted.
    """
    restore_backup(load(follow=False), archive, force=force)


def restore_backup(settings: Settings, archive: Path, *, force: bool) -> None:
    """Restore a backup into the home, or finish an interrupted restore.

    Args:
        force: Whether present content may be moved aside.

    Raises:
        CommandError: It failed; the home has not changed, or the message says otherwise.
    """
    console, home = notes(), Home(settings.home)
    home.prepare()
    with (
        _described_errors(f"Cannot restore to {settings.home}"),
        home.locked(),
        home.exclusive(),
    ):
        placed = placing.finish(settings.home, settings)
        report_kept(placed, console)
        if placing.is_incomplete(settings.home):
            complete_restore(settings, console)
        try:
            with opened(archive) as (header, sha256, tar):
                is_new = placed is None or placed.backup != sha256
                if is_new:
                    _require_fit(settings, header, force=force)
                    new = _unpacked(settings, console, tar, header, sha256)
            # No longer within `opened`, to which every error is one of the archive.
            if is_new:
                note_restrictions(settings, header)
                report_kept(_place(settings, header, sha256, new), console)
        finally:
            placing.discard(settings.home)
        complete_restore(settings, console)
    _print_restored(console, settings, header)


def _unpacked(
    settings: Settings, console: Console, tar: TarFile, header: Header, sha256: str
) -> Path:
    _require_room(settings.home, header.size)
    new = placing.unpack_folder(settings.home)
    with _bar(console, "Reading", header.size) as progress:
        unpack(tar, header, sha256, new, progress)
    return new


def _print_restored(console: Console, settings: Settings, header: Header) -> None:
    when = f"{header.created_at:%Y-%m-%d %H:%M} UTC"
    console.print(f"[green]✓[/] {escape(str(settings.home))} is as it was on {when}.")
    if header.database is None:
        # An error, as `--quiet` suppresses notes.
        warn(errors(), _NO_DATABASE)
    if missing := _missing_keys(settings):
        warn(
            console,
            f"The data of enrolled people needs keys that are not here: {', '.join(missing)}. Add "
            f"their lines to {place_of_keys(settings)}. If they are lost for good, start with "
            "`opsin faces replace-lost-keys`.",
        )
    if not cli_key_file(settings.home).exists():
        console.print("If keys are required, `opsin keys cli` makes one for the commands here.")


@contextmanager
def _described_errors(what: str) -> Iterator[None]:
    """Turn an error of the disk or the database into one line."""
    try:
        with as_command_error():
            yield
    except OSError as error:
        raise CommandError(f"{what} ({error.strerror}).") from None


def _place(settings: Settings, header: Header, sha256: str, new: Path) -> placing.Placed:
    if kind_of(settings) == "sqlite":
        copy = staged(new / DATABASE, "sqlite", header.revision) if header.database else None
        return placing.place(settings.home, sha256, (copy, sqlite_path(settings)))
    dumped = None
    if header.database:
        dumped = settings, staged(new / DATABASE, "postgresql", header.revision)
    return placing.place(settings.home, sha256, postgresql=dumped, revision=header.revision)


def _require_fit(settings: Settings, header: Header, *, force: bool) -> None:
    """Check, before anything is unpacked, that this backup may replace this home."""
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
    existing = _existing_content(settings)
    if header.database is None and _THE_DATABASE in existing:
        raise CommandError(
            "The backup holds no database: it was made where OPSIN_DATABASE_URL named none. The "
            "present one would be taken away. Restore another backup, or restore this one into "
            "another home."
        )
    if existing and not force:
        raise CommandError(
            f"{settings.home} is not empty: {', '.join(existing)}. Set OPSIN_HOME to a new folder, "
            "or move the present content aside with --force."
        )
    if existing and Api(settings).is_opsin():
        raise CommandError(
            f"An Opsin answers on port {settings.port}. Stop it and its workers first; if it "
            "uses another home, set OPSIN_PORT to a free port."
        )
    if existing:
        require_unused(settings)
    if _THE_DATABASE not in existing and home_id(settings.home) is not None:
        # An error, as `--quiet` suppresses notes.
        warn(
            errors(),
            f"{settings.home} belongs to a database, and there is none where OPSIN_DATABASE_URL or "
            "its default says. If it is not lost but elsewhere, set OPSIN_DATABASE_URL and restore "
            "again before you start the service.",
        )


def _existing_content(settings: Settings) -> list[str]:
    names = [
        name
        for name in AREAS
        if any(not path.name.startswith(".") for path in _entries(settings.home / name))
    ]
    if kind_of(settings) == "sqlite":
        return names + ([_THE_DATABASE] if sqlite_path(settings).exists() else [])
    return names + ([_THE_DATABASE] if current(settings.database) is not None else [])


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _require_files_only(console: Console, settings: Settings) -> None:
    """Check that a backup without a database lacks nothing; there is none at its address.

    Raises:
        CommandError: The home belongs to a database, or is empty: its disk may not be mounted.
    """
    require_database(settings)
    if not any(_entries(settings.home / name) for name in AREAS):
        raise CommandError(
            f"There is nothing in {settings.home}. Set OPSIN_HOME, or mount its disk."
        )
    warn(console, _NO_DATABASE)


def _warn_of_secrets(console: Console, settings: Settings, secrets: bool) -> None:
    folder, left_out = settings.home / SECRETS, []
    if settings.faces_keys is not None:
        left_out.append("OPSIN_FACES_KEYS")
    if folder.is_dir() and secrets:
        warn(
            console,
            f"The keys of faces in {folder} will be in the backup: with the file, anyone can read "
            "every template that they encrypt. Protect it like a password.",
        )
    elif folder.is_dir():
        left_out.append(str(folder))
    if left_out:
        warn(
            console,
            f"The keys of faces in {' and '.join(left_out)} are not in it. Keep them in another "
            "place: without them the templates in the backup can never be read.",
        )


def _lost_datasets(settings: Settings, content: Snapshot) -> list[str]:
    """What to say of datasets without their folders."""
    if not (lost := content.lost_datasets):
        return []
    return [
        f"{settings.home} has no folder of {_shortened(lost)}. Check OPSIN_HOME and its mount; if "
        "they are lost for good, `opsin datasets delete` removes them from the database."
    ]


def _lost_keys(settings: Settings, content: Snapshot) -> list[str]:
    """What to say of keys that face data needs and a snapshot with secrets does not hold."""
    if SECRETS not in content.areas or content.database is None:
        return []
    held: set[str] = set()
    with suppress(OSError, ValueError):
        text = (content.areas[SECRETS] / settings.face_keys_file.name).read_text()
        held.update(key.id for key in read_keys(text))
    if not (lost := sorted(needed_keys(settings) - held)):
        return []
    return [
        f"{settings.face_keys_file} does not hold the keys {_shortened(lost)}, which face data "
        "needs. --secrets includes that file only: keep those of OPSIN_FACES_KEYS in another "
        "place, and leave --secrets out. `opsin doctor` names those that are lost."
    ]


def _missing_keys(settings: Settings) -> list[str]:
    """The keys that face data needs and that are not here, such as after a restore."""
    if current(settings.database) is None:
        return []
    present: set[str] = set()
    with suppress(OSError, ValueError):  # one that cannot be read is not here either
        present = present_keys(settings)
    return sorted(needed_keys(settings) - present)


def _shortened(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _require_room(folder: Path, size: int) -> None:
    free, needed = shutil.disk_usage(folder).free, size + _SPARE_BYTES
    if free < needed:
        raise CommandError(
            f"{math.ceil(needed / 1e6):,} MB are needed in {folder}, and {free // 10**6:,} MB are "
            f"free. Free {math.ceil((needed - free) / 1e6):,} MB more."
        )


@contextmanager
def _bar(console: Console, what: str, total: int) -> Iterator[Callable[[int], None]]:
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

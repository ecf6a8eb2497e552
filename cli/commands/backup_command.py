"""The options of `opsin backup` and `opsin restore`; what they do is in `cli.backup`."""

from pathlib import Path
from typing import Annotated

import typer


def backup(
    out: Annotated[Path, typer.Argument(metavar="OUT.tar", help="A file not there yet.")],
    secrets: Annotated[
        bool,
        typer.Option("--secrets", help="Put the keys of faces in: then keep the file secret."),
    ] = False,
) -> None:
    """Write database, store, datasets and jobs to one file; what runs goes on meanwhile."""
    from cli.commands.backup import backup as write
    from cli.settings import load

    write(load(), out, secrets=secrets)


def restore(
    archive: Annotated[Path, typer.Argument(metavar="BACKUP.tar", help="From `opsin backup`.")],
    force: Annotated[
        bool, typer.Option("--force", help="Move aside what is in the home already.")
    ] = False,
) -> None:
    """Bring an empty home to what a backup holds. Nothing may run from it."""
    from cli.commands.backup import restore as read
    from cli.settings import load

    read(load(), archive, force=force)

"""The options of `opsin keys …`; what they do is in `cli.commands.keys`."""

from typing import Annotated

import typer

KeyId = Annotated[str, typer.Argument(metavar="KEY", help="Its id, as `opsin keys list` shows.")]


def build() -> typer.Typer:
    """The group of commands."""
    keys = typer.Typer(help="Who may use the service.", no_args_is_help=True)
    keys.command("create")(_create)
    keys.command("list")(_list)
    keys.command("rotate")(_rotate)
    keys.command("revoke")(_revoke)
    return keys


def _create(
    name: Annotated[str, typer.Argument(help="Whose it is, for people.")],
    scope: Annotated[
        list[str], typer.Option(help="infer, train, faces, models or admin; repeat for several.")
    ],
    expires: Annotated[str | None, typer.Option(help="After 12h, 90d, 2w. Default: never.")] = None,
    rate: Annotated[
        int | None, typer.Option(min=1, help="Most requests a minute. Default: no limit.")
    ] = None,
) -> None:
    """Make a key; it is printed once. From the first on, the service asks everybody for one."""
    from cli.commands.keys import create
    from cli.settings import load

    create(load(), name, scope, expires, rate)


def _list() -> None:
    """Show all keys, without their secrets."""
    from cli.commands.keys import show
    from cli.settings import load

    show(load())


def _rotate(
    key: KeyId,
    grace: Annotated[str, typer.Option(help="How long the old one still works.")] = "24h",
) -> None:
    """Make a new key that may do what an old one may, and let that end."""
    from cli.commands.keys import rotate
    from cli.settings import load

    rotate(load(), key, grace)


def _revoke(key: KeyId) -> None:
    """End a key for good, within a second."""
    from cli.commands.keys import revoke
    from cli.settings import load

    revoke(load(), key)

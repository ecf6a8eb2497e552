"""Assembly of the `opsin` command.

A command's module is imported only when that command is called, and so is everything else that
takes time to import: `opsin --help` answers at once.
Its summary therefore stands here, word for word as the command's own help begins.
"""

import importlib
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

_INTERRUPTED = 130

COMMANDS = {
    "up": ("up:up", "Start everything on this machine: Valkey, workers and API."),
    "serve": ("serve:serve", "Run the API alone; needs OPSIN_REDIS_URL."),
    "worker": ("serve:worker", "Run one inference worker, or one job worker, alone."),
    "classify": ("classify:classify", "Say what images show."),
    "explain": ("explain:explain", "Show which parts of images speak for their class."),
    "train": ("train:train", "Learn the classes of a folder, and publish the model."),
    "presets": ("train:presets", "Show the trainings of the classic tutorials, by name."),
    "tensorboard": ("diagnostics:tensorboard", "Open TensorBoard on the logs of trainings."),
    "backup": ("backup:backup", "Write database, store, datasets and jobs to one file."),
    "restore": ("backup:restore", "Bring an empty home to the state of a backup."),
    "doctor": ("diagnostics:doctor", "Check this machine and the installation; suggest fixes."),
    "weights": ("weights:app", "The networks' weight files on this machine."),
    "models": ("models:app", "The model versions in the store."),
    "jobs": ("jobs:app", "The long tasks of a running server."),
    "keys": ("keys:app", "API keys: who may use the service."),
    "faces": ("faces:app", "People, recognised by face."),
    "datasets": ("datasets:app", "Labelled images to learn from."),
}
"""By name, in the order of the help: the function or group in `cli.commands`, and its summary."""


class _LazyGroup(TyperGroup):
    """Its commands are placeholders with a summary; the real one is imported when it is called."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return name, load_command(name) if name else command, rest


def load_command(name: str) -> Any:
    """Import one of `COMMANDS`, as Typer makes it."""
    target, summary = COMMANDS[name]
    module, _, attribute = target.partition(":")
    item = getattr(importlib.import_module(f"cli.commands.{module}"), attribute)
    parent = typer.Typer(rich_markup_mode=None)
    parent.callback()(_nothing)  # without it, a single command would replace its parent
    if isinstance(item, typer.Typer):
        parent.add_typer(item, name=name, help=summary, no_args_is_help=True)
    else:
        parent.command(name)(item)
    return typer.main.get_group(parent).commands[name]


def build() -> typer.Typer:
    """The command with all its sub-commands."""
    app = typer.Typer(
        cls=_LazyGroup,
        help="One service for images: classify, show why, learn new classes, recognise faces. "
        "Settings come from OPSIN_… variables or .env; docs/reference/settings.md lists them.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback()(_opsin)
    for name, (_, summary) in COMMANDS.items():
        app.command(name, help=summary)(_nothing)
    return app


def run() -> None:
    """The entry point: a failure is one plain line and an exit code, never a stack trace."""
    try:
        build()()
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    except Exception as failure:
        from cli.output import CommandError, notes, print_error

        if not isinstance(failure, CommandError):
            raise
        print_error(notes(), failure.message)
        sys.exit(failure.exit_code)


def _print_version(requested: bool) -> None:
    if requested:
        from contracts.settings import RELEASE

        typer.echo(f"Opsin {RELEASE}")
        raise typer.Exit


def _nothing() -> None:
    """What a placeholder does."""


def _opsin(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """The options of `opsin` itself; each acts in its callback."""

"""Assembly of the `opsin` command.

A command's module is imported only when that command is called, and so is everything else that
takes time to import: `opsin --help` answers at once.
Its summary therefore stands here, word for word as the command's own help begins.
"""

import importlib
import os
import re
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cli.help_texts import tidy
from cli.processes.signals import ending_orderly
from cli.streams import debug, prepare_streams, quiet

_INTERRUPTED = 130

COMMANDS = {
    "up": ("up:up", "Start everything on this machine: Valkey, workers and API."),
    "serve": ("serve:serve", "Run the API alone; needs OPSIN_REDIS_URL."),
    "worker": ("serve:worker", "Run one inference worker, or one job worker, alone."),
    "doctor": ("diagnostics:doctor", "Check this machine and the installation; suggest fixes."),
    "top": ("top:top", "Show what a running service does: models, rates, queues, jobs, processes."),
    "backup": ("backup:backup", "Write database, store, datasets and jobs to one file."),
    "restore": ("backup:restore", "Restore a backup into an empty home."),
    "keys": ("keys:app", "API keys: who may use the service."),
    "classify": ("classify:classify", "Say what images show."),
    "explain": ("explain:explain", "Show which parts of images speak for their class."),
    "embed": ("embed:embed", "Turn images into vectors: similar images get similar ones."),
    "layers": (
        "layers:layers",
        "Show a model's layers, their output shapes, and which can be explained.",
    ),
    "activations": ("layers:activations", "Show the feature maps that a layer makes of an image."),
    "filters": ("layers:filters", "Show the patterns that excite the filters of a layer most."),
    "style": ("create:style", "Paint an image in the style of others."),
    "dream": ("create:dream", "Let a network exaggerate what it sees in an image."),
    "train": ("training.train:train", "Learn the classes of a folder, and publish the model."),
    "sweep": (
        "training.sweep:sweep",
        "Train with several settings, one after another, and keep the best version.",
    ),
    "presets": ("training.train:presets", "Show the trainings of the classic tutorials, by name."),
    "datasets": ("datasets:app", "Labeled images to learn from."),
    "tensorboard": ("diagnostics:tensorboard", "Open TensorBoard on the logs of trainings."),
    "quantize": (
        "quantize:quantize",
        "Make an int8 copy of a version, which is smaller and faster on a CPU.",
    ),
    "models": ("models:app", "The model versions in the store."),
    "weights": ("weights:app", "The networks' weight files on this machine."),
    "jobs": ("jobs:app", "The long tasks of a running server."),
    "faces": ("faces.faces:app", "People, recognized by face."),
}
"""By name: the function or group in `cli.commands`, and its summary."""

GROUPS = {
    "Run it": ("up", "serve", "worker", "doctor", "top", "backup", "restore", "keys"),
    "Look at images": ("classify", "explain", "embed", "layers", "activations", "filters"),
    "Create": ("style", "dream"),
    "Teach it": ("train", "sweep", "presets", "datasets", "tensorboard"),
    "Manage": ("models", "quantize", "weights", "jobs"),
    "Recognize people": ("faces",),
}
"""The sections of `opsin --help`, in order."""

COMMAND_GROUPS = ("keys", "datasets", "models", "weights", "jobs", "faces")
"""The commands that have commands."""

EXAMPLES = {
    "up": "opsin up",
    "serve": "OPSIN_REDIS_URL=redis://localhost:6379/0 opsin serve",
    "worker": "OPSIN_REDIS_URL=redis://localhost:6379/0 opsin worker --jobs",
    "doctor": "opsin doctor --deep",
    "top": "opsin top --once --json",
    "backup": "opsin backup opsin.tar",
    "restore": "OPSIN_HOME=./new opsin restore opsin.tar",
    "keys": "opsin keys create phone --scope infer --expires 90d",
    "classify": "opsin classify photos --recursive --csv classes.csv",
    "explain": "opsin explain cat.png --all-methods --legend",
    "embed": "opsin embed photos --recursive --csv vectors.csv",
    "layers": "opsin layers squeezenet",
    "activations": "opsin activations cat.png --layer fire9_concat",
    "filters": "opsin filters squeezenet --layer fire9_concat --filters 0,1,2",
    "style": "opsin style photo.jpg painting.jpg -o out.png",
    "dream": "opsin dream photo.jpg --size 512",
    "quantize": "opsin quantize pets 2 ds_8Zk3vQmT1xYpL0aB",
    "train": "opsin train pets --model pets",
    "sweep": "opsin sweep pets --model pets --try learning_rate.head=0.01,0.001",
    "presets": "opsin presets",
    "datasets": "opsin datasets add pets.zip --name pets",
    "tensorboard": "opsin tensorboard",
    "models": "opsin models promote pets 2",
    "weights": "opsin weights pull squeezenet",
    "jobs": "opsin jobs list --state running",
    "faces": 'opsin faces enroll ada.mp4 --name "Ada Lovelace"',
}


class _LazyGroup(TyperGroup):
    """Its commands are placeholders with a summary; the real one is imported when it is called."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        try:
            name, command, rest = super().resolve_command(ctx, args)
        except Exception as error:
            if type(error).__name__ == "UsageError":  # Typer does not export it
                error.message += _in_groups(args[0], error.message)  # type: ignore[attr-defined]
            raise
        return name, load_command(name) if name else command, rest

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 (of the base class)
        for title, names in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(name, COMMANDS[name][1]) for name in names])
                formatter.write_paragraph()
                formatter.write_text(f"Example: {EXAMPLES[names[0]]}")


def _in_groups(name: str, message: str) -> str:
    """A question that names the groups with a command of that name."""
    if "Did you mean" in message:
        return ""
    groups = [group for group in COMMAND_GROUPS if name in load_command(group).commands]
    found = " or ".join(f"'{group} {name}'" for group in groups)
    return f" Did you mean {found}?" if found else ""


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
    command = typer.main.get_group(parent).commands[name]
    command.epilog = f"Example: {EXAMPLES[name]}"
    for each in _with_subcommands(command):
        each.params += _common_options()
    tidy(command)
    return command


def build() -> typer.Typer:
    """The command with all its sub-commands."""
    app = typer.Typer(
        cls=_LazyGroup,
        help="One service for images: classify, show why, learn new classes, recognize faces. "
        "Settings come from OPSIN_… variables or .env; docs/reference/settings.md lists them. "
        "--install-completion makes your shell complete commands and options.",
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
    prepare_streams()
    try:
        with ending_orderly():
            code = typer.main.get_command(build()).main(standalone_mode=False)
        sys.stdout.flush()
        sys.exit(code)
    except BrokenPipeError:  # whoever read stdout has seen enough, such as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    except typer.Abort:
        sys.stderr.write("Aborted.\n")
        sys.exit(1)
    except Exception as failure:  # noqa: BLE001 (the last resort)
        sys.exit(_report(failure))


def _report(failure: Exception) -> int:
    """Print one plain line; the exit code.

    Raises:
        Exception: The failure itself, with `--debug`, if nobody expected it.
    """
    from cli.output import CommandError, errors, print_error
    from contracts.errors import OpsinError

    show = getattr(failure, "show", None)  # a wrong call, as Typer reports it
    if show is not None:
        failure.message = _plain_words(str(getattr(failure, "message", "")))  # type: ignore[attr-defined]
        if possibilities := getattr(failure, "possibilities", None):
            meant = " or ".join(sorted(possibilities))
            failure.message = f"{failure.message}. Did you mean {meant}?"  # type: ignore[attr-defined]
            failure.possibilities = None  # type: ignore[attr-defined]
        show()
        return int(getattr(failure, "exit_code", 2))
    if isinstance(failure, CommandError):
        print_error(errors(), failure.message)
        return failure.exit_code
    if debug.get():
        raise failure
    if isinstance(failure, OpsinError):
        print_error(errors(), failure.detail)
    elif isinstance(failure, OSError) and failure.strerror:
        where = f"{failure.filename}: " if failure.filename is not None else ""
        print_error(errors(), f"{where}{failure.strerror}.")
    else:
        print_error(
            errors(),
            f"This is a fault of Opsin: {type(failure).__name__}: {failure}. `opsin --debug …` "
            "with the same command shows where; please report it.",
        )
    return 1


def _plain_words(message: str) -> str:
    """What Typer says of a wrong value, without the words of Python."""
    message = message.replace("Value error, ", "")
    for kind, name in (("integer", "whole number"), ("number", "number")):
        message = re.sub(
            rf"Input should be a valid {kind}, unable to parse string as an? {kind}",
            f"This is not a {name}.",
            message,
        )
    return message


def _with_subcommands(command: Any) -> Iterator[Any]:
    yield command
    for each in getattr(command, "commands", {}).values():
        yield from _with_subcommands(each)


def _common_options() -> list[Any]:
    """The options that every command takes besides its own."""

    def options(
        hush: Annotated[
            bool,
            typer.Option(
                "--quiet", "-q", callback=_be_quiet, expose_value=False, help="Only results."
            ),
        ] = False,
    ) -> None:
        """A command that only has these options."""

    probe = typer.Typer(add_completion=False, rich_markup_mode=None)
    probe.command()(options)
    return [one for one in typer.main.get_command(probe).params if "--quiet" in one.opts]


def _be_quiet(value: bool) -> None:
    if value:
        quiet.set(True)


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
    hush: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print only results and errors.")
    ] = False,
    trace: Annotated[
        bool, typer.Option("--debug", help="Show a stack trace if something fails unexpectedly.")
    ] = False,
) -> None:
    """The options of `opsin` itself."""
    del version  # its callback has acted
    quiet.set(hush)
    debug.set(trace)

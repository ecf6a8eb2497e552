"""How `--help` names what a command takes: IMAGE..., NUMBER, [a|b]; not by the types of Python.

Also how a choice may be written: `Grad-CAM` for `grad_cam`.
"""

import difflib
import re
from collections.abc import Sequence
from typing import Any

import typer


def tidy(command: Any) -> None:
    """Change the help of a command that Typer has made, and of its subcommands.

    Typer writes `{IMAGE}...` and `<list[Path]>`, and cuts the summaries of subcommands off.
    """
    for param in command.params:
        if param.param_type_name == "argument":
            _tidy_argument(param)
        elif not param.is_flag:
            _tidy_option(param)
        if param.type_descriptor.is_choice:
            _accept_spellings(param)
    for each in getattr(command, "commands", {}).values():
        if each.help:
            each.short_help = " ".join(each.help.split("\n\n")[0].split())
        tidy(each)


def _tidy_argument(param: Any) -> None:
    name = (param.metavar or param.name).upper().replace("_", "-").removesuffix("...")
    several = "..." if param.nargs != 1 else ""
    usage = f"{name}{several}" if param.required else f"[{name}{several}]"
    param.metavar = name
    param._usage_display_name = lambda: usage
    param.display_type = lambda ctx: ""  # noqa: ARG005 (of the base class)


def _tidy_option(param: Any) -> None:
    word = param.metavar or _kind(param.type_descriptor)
    param.display_type = lambda ctx: word  # noqa: ARG005 (of the base class)


def _accept_spellings(param: Any) -> None:
    """Take `grad-cam` and `GradCAM` for `grad_cam`; suggest what a misspelled choice may mean."""
    choices = [str(choice) for choice in param.type_descriptor.choices]
    process = param.process_value

    def choose(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)(choose(each) for each in value)
        return as_choice(value, choices) if isinstance(value, str) else value

    def process_spelling(ctx: Any, value: Any) -> Any:
        try:
            return process(ctx, choose(value))
        except typer.BadParameter as error:
            error.ctx, error.param = ctx, param  # so that the message names the option
            raise

    param.process_value = process_spelling


def as_choice(text: str, choices: Sequence[str]) -> str:
    """The choice that a text means, whatever its case and hyphens.

    Raises:
        BadParameter: None; the message names those it may mean.
    """
    if text in choices:
        return text
    plain = {_plain(choice): choice for choice in choices}
    if (found := plain.get(_plain(text))) is not None:
        return found
    similar = difflib.get_close_matches(_plain(text), plain, 1)
    hint = f" Did you mean {plain[similar[0]]}?" if similar else ""
    raise typer.BadParameter(f"'{text}' is none of {', '.join(choices)}.{hint}")


def _plain(text: str) -> str:
    return re.sub(r"[-_ ]", "", text.casefold())


def _kind(descriptor: Any) -> str:
    if descriptor.is_choice:
        return f"[{'|'.join(str(choice) for choice in descriptor.choices)}]"
    if descriptor.is_path:
        return "PATH"
    kind = str(descriptor.annotation)
    if descriptor.is_ranged or "int" in kind or "float" in kind:
        return "NUMBER"
    return "PATH" if "Path" in kind else "TEXT"

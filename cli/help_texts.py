"""How `--help` names what a command takes: IMAGE..., NUMBER, [a|b]; not by the types of Python."""

from typing import Any


def tidy(command: Any) -> None:
    """Change the help of a command that Typer has made, and of its subcommands.

    Typer writes `{IMAGE}...` and `<list[Path]>`, and cuts the summaries of subcommands off.
    """
    for param in command.params:
        if param.param_type_name == "argument":
            _tidy_argument(param)
        elif not param.is_flag:
            _tidy_option(param)
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


def _kind(descriptor: Any) -> str:
    if descriptor.is_choice:
        return f"[{'|'.join(str(choice) for choice in descriptor.choices)}]"
    if descriptor.is_path:
        return "PATH"
    kind = str(descriptor.annotation)
    if descriptor.is_ranged or "int" in kind or "float" in kind:
        return "NUMBER"
    return "PATH" if "Path" in kind else "TEXT"

"""`opsin quantize`: an int8 copy of a version, by a running server."""

from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.markup import escape

from cli.clients.http import ServerClient
from cli.clients.jobs import JobsApi
from cli.commands.jobs import follow_job
from cli.options import AsJson, Key, Server
from cli.output import answers, notes, print_json
from cli.settings import load


def quantize(  # noqa: PLR0917 (typer reads options from the parameters)
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model's name.")],
    version: Annotated[int, typer.Argument(metavar="VERSION", min=1, help="Its number.")],
    dataset: Annotated[
        str, typer.Argument(metavar="DATASET", help="Labeled images to calibrate with, ds_….")
    ],
    max_accuracy_loss: Annotated[
        float | None, typer.Option(min=0, max=1, help="What the copy may lose and still be used.")
    ] = None,
    promote: Annotated[
        bool | None,
        typer.Option("--promote/--no-promote", help="Whether it becomes champion if it passes."),
    ] = None,
    as_json: AsJson = False,
    server: Server = None,
    key: Key = None,
) -> None:
    """Make an int8 copy of a version, which is smaller and faster on a CPU.

    It is a job: Ctrl-C leaves it running.
    """
    given = {"max_accuracy_loss": max_accuracy_loss, "promote": promote}
    body = {name: value for name, value in given.items() if value is not None}
    settings = load(key=key)
    path = f"/v1/models/{quote(model, safe='')}/versions/{version}/quantize"
    job = ServerClient(settings, server).json("POST", path, json={"dataset_id": dataset, **body})
    jobs = JobsApi(settings, server)
    result = follow_job(jobs, job["id"]).result or {}
    if as_json:
        print_json(result)
        return
    _print(result)


def _print(result: Mapping[str, Any]) -> None:
    number, original = result["version"], result["quantized_from"]
    accuracy, allowed = result["accuracy"], result["max_accuracy_loss"]
    console = answers()
    console.print(
        f"{escape(result['model'])} version {number} is the int8 copy of version {original}: "
        f"{accuracy['after']:.1%} of {result['pictures']['measured']:,} images correct, "
        f"version {original} {accuracy['before']:.1%}"
    )
    if result["promoted"]:
        notes().print(f"[green]✓[/] version {number} is champion")
    elif result["accuracy_loss"] > allowed:
        console.print(
            f"It does not become champion: it may lose {allowed:.1%} (--max-accuracy-loss)."
        )
    else:
        command = f"opsin models promote {result['model']} {number}"
        console.print(f"It is not champion. `{escape(command)}` makes it so.")

"""`opsin layers`, `activations` and `filters`: what the layers of a network do, by a server."""

from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

import typer

from cli.clients.http import SPARE_SECONDS, ServerClient, file_part
from cli.clients.jobs import JobsApi
from cli.commands.jobs import follow_job
from cli.options import AsJson, Key, Out, Server
from cli.output import (
    CommandError,
    note_replaced,
    notes,
    output_path,
    print_json,
    print_path,
    waiting,
    written_file,
)
from cli.settings import load
from cli.streams import shown
from cli.tables import Column, print_list

Model = Annotated[str, typer.Argument(metavar="MODEL", help="A model's name.")]
Version = Annotated[str | None, typer.Option(help="A number or an alias. Default: champion.")]

_FILTERS = "filters.png"


def layers(
    model: Model,
    version: Version = None,
    as_json: AsJson = False,
    server: Server = None,
    key: Key = None,
) -> None:
    """Show a model's layers, their output shapes, and which can be explained."""
    parameters = {"version": version} if version is not None else {}
    answer = ServerClient(load(key=key), server).json(
        "GET", f"/v1/models/{quote(model, safe='')}/layers", params=parameters
    )
    if as_json:
        print_json(answer)
        return
    counted = any("parameters" in item for item in answer["items"])
    columns = [
        *(Column("layer", "id"), Column("type"), Column("output shape", "number")),
        *([Column("parameters", "number")] if counted else []),
        Column("explainable"),
    ]
    print_list(columns, [_row(item, counted=counted) for item in answer["items"]])
    if totals := answer.get("totals"):
        text = ", ".join(f"{name} {value:,}" for name, value in totals.items())
        notes().print(f"[dim]{text}[/]")


def _row(item: dict[str, Any], *, counted: bool) -> tuple[str, ...]:
    shape = " × ".join("any" if size is None else str(size) for size in item["output_shape"])  # noqa: RUF001
    parameters = item.get("parameters")
    numbers = ("" if parameters is None else f"{parameters:,}",) if counted else ()
    explainable = "yes" if item["explainable"] else ""
    return (item["name"], item["type"], shape, *numbers, explainable)


def activations(  # noqa: PLR0917 (typer reads options from the parameters)
    photo: Annotated[Path, typer.Argument(metavar="IMAGE", help="An image file.")],
    layer: Annotated[str | None, typer.Option(help="Default: that of heatmaps.")] = None,
    channels: Annotated[int, typer.Option(min=1, max=64, help="How many maps to show.")] = 25,
    order: Annotated[
        Literal["strongest", "index", "random"], typer.Option(help="Which maps come first.")
    ] = "strongest",
    seed: Annotated[int, typer.Option(min=0, help="For --order random.")] = 0,
    model: Annotated[str | None, typer.Option(help="Default: the server's first model.")] = None,
    version: Version = None,
    output: Annotated[
        Literal["image", "json"], typer.Option(help="A sheet of the maps, or their numbers.")
    ] = "image",
    resize: Annotated[
        Literal["crop", "squash"] | None,
        typer.Option(help="Its center, or all of it. Default: as the model was trained."),
    ] = None,
    out: Out = None,
    server: Server = None,
    key: Key = None,
) -> None:
    """Show the feature maps that a layer makes of an image."""
    settings = load(key=key)
    seconds = settings.max_timeout_ms / 1000 + SPARE_SECONDS
    chosen = {"layer": layer, "model": model, "version": version, "resize": resize}
    parameters = {name: value for name, value in chosen.items() if value is not None}
    ending, accept = ("json", "application/json") if output == "json" else ("png", "image/png")
    part = file_part("image", photo)
    with waiting(notes(), f"Looking at {shown(photo.name)}"):
        answer = ServerClient(settings, server, seconds=seconds).request(
            "POST",
            "/v1/activations",
            params={**parameters, "channels": channels, "order": order, "seed": seed},
            files=[part],
            headers={"Accept": accept, "X-Timeout-Ms": str(settings.max_timeout_ms)},
        )
    _write(output_path(out, f"{photo.stem}-activations.{ending}"), answer.content)


def filters(  # noqa: PLR0917 (typer reads options from the parameters)
    model: Model,
    layer: Annotated[str | None, typer.Option(help="Default: that of heatmaps.")] = None,
    chosen: Annotated[
        str | None, typer.Option("--filters", help="Their numbers, e.g. 0,1,7. Default: the first.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, max=1000, help="Steps of the ascent.")] = None,
    image_size: Annotated[int | None, typer.Option(min=16, help="Side of a pattern.")] = None,
    step_size: Annotated[
        float | None, typer.Option(help="Of the ascent, in levels of 0 to 255. Default: 0.9.")
    ] = None,
    octaves: Annotated[int | None, typer.Option(min=1, max=8, help="Number of sizes.")] = None,
    contrast: Annotated[
        float | None, typer.Option(help="Deviation of what is shown, to 1. Default: 0.15.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the starting noise.")] = None,
    version: Version = None,
    out: Out = None,
    server: Server = None,
    key: Key = None,
) -> None:
    """Show the patterns that excite the filters of a layer most.

    It is a job: Ctrl-C leaves it running.
    """
    given = {
        "layer": layer,
        "version": int(version) if version is not None and version.isdecimal() else version,
        "filters": None if chosen is None else _numbers(chosen),
        "steps": steps,
        "image_size": image_size,
        "step_size": step_size,
        "contrast": contrast,
        "octaves": octaves,
        "seed": seed,
    }
    body = {name: value for name, value in given.items() if value is not None}
    settings = load(key=key)
    job = ServerClient(settings, server).json("POST", "/v1/filters", json={"model": model, **body})
    jobs = JobsApi(settings, server)
    follow_job(jobs, job["id"])
    target = output_path(out, f"{model}-{_FILTERS}")
    jobs.fetch(job["id"], _FILTERS, target)
    print_path(target)


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise CommandError(
            f"--filters takes numbers with commas, e.g. 0,1,7, and not '{text}'.", exit_code=2
        ) from None


def _write(target: Path, content: bytes) -> None:
    note_replaced(target)
    with written_file(target) as file:
        file.write(content)
    print_path(target)

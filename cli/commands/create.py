"""`opsin style` and `opsin dream`: images made from images, as jobs of a server."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.clients.http import FilePart, ServerClient, file_part
from cli.clients.jobs import JobsApi
from cli.commands.jobs import follow_job
from cli.options import Key, Out, Server
from cli.output import output_path, print_path
from cli.settings import load
from contracts.create.requests import (
    CONTENT,
    IMAGE,
    RESULT,
    STYLE,
    Colors,
    Optimizer,
    StyleMethod,
    StyleNetwork,
)

_UPLOAD_SECONDS = 600.0

Size = Annotated[
    int | None, typer.Option(min=32, max=8192, help="Pixels of the result's longer side.")
]
Iterations = Annotated[int | None, typer.Option(min=1, help="More take longer.")]
Seed = Annotated[int | None, typer.Option(min=0, help="The same seed gives the same result.")]


def style(  # noqa: PLR0917 (typer reads options from the parameters)
    content: Annotated[Path, typer.Argument(metavar="CONTENT", help="The image to paint.")],
    styles: Annotated[
        list[Path], typer.Argument(metavar="STYLE...", help="One to four images, for the style.")
    ],
    method: Annotated[
        StyleMethod | None,
        typer.Option(help="optimize takes minutes, fast seconds. Default: optimize."),
    ] = None,
    size: Size = None,
    iterations: Iterations = None,
    weights: Annotated[
        str | None, typer.Option(help="The share of each style, e.g. 0.7,0.3. Default: equal.")
    ] = None,
    preserve_colors: Annotated[
        Colors | None, typer.Option(help="Keep the content's colors. Default: none.")
    ] = None,
    network: Annotated[
        StyleNetwork | None, typer.Option(help="Default: the best whose weights are there.")
    ] = None,
    optimizer: Annotated[Optimizer | None, typer.Option(help="Default: lbfgs.")] = None,
    strength: Annotated[
        float | None, typer.Option(min=0, max=1, help="Of the style, for fast. Default: 1.")
    ] = None,
    seed: Seed = None,
    out: Out = None,
    server: Server = None,
    key: Key = None,
) -> None:
    """Paint an image in the style of others.

    It is a job: Ctrl-C leaves it running, and `opsin jobs cancel` keeps its latest image.
    """
    options = {
        "method": method,
        "size": size,
        "iterations": iterations,
        "style_weights": weights,
        "preserve_colors": preserve_colors,
        "network": network,
        "optimizer": optimizer,
        "strength": strength,
        "seed": seed,
    }
    parts = [file_part(CONTENT, content), *(file_part(STYLE, one) for one in styles)]
    target = output_path(out, f"{content.stem}-style.png")
    _create("/v1/style_transfers", parts, options, target, server, key)


def dream(  # noqa: PLR0917 (typer reads options from the parameters)
    photo: Annotated[Path, typer.Argument(metavar="IMAGE", help="An image file.")],
    model: Annotated[str | None, typer.Option(help="Default: vgg16, or the first.")] = None,
    version: Annotated[str | None, typer.Option(help="Default: champion.")] = None,
    layers: Annotated[str | None, typer.Option(help="The layers to excite, with commas.")] = None,
    class_index: Annotated[
        int | None,
        typer.Option(
            *("--class", "--class-index"),
            min=0,
            help="A class to excite, with or without layers.",
        ),
    ] = None,
    size: Size = None,
    octaves: Annotated[int | None, typer.Option(min=1, max=12, help="Number of sizes.")] = None,
    iterations: Iterations = None,
    seed: Seed = None,
    out: Out = None,
    server: Server = None,
    key: Key = None,
) -> None:
    """Let a network exaggerate what it sees in an image.

    It is a job: Ctrl-C leaves it running, and `opsin jobs cancel` keeps its latest image.
    """
    options = {
        "model": model,
        "version": version,
        "layers": layers,
        "class_index": class_index,
        "size": size,
        "octaves": octaves,
        "iterations": iterations,
        "seed": seed,
    }
    target = output_path(out, f"{photo.stem}-dream.png")
    _create("/v1/dreams", [file_part(IMAGE, photo)], options, target, server, key)


def _create(  # noqa: PLR0917
    path: str,
    images: Sequence[FilePart],
    options: dict[str, Any],
    target: Path,
    server: str | None,
    key: str | None,
) -> None:
    settings = load(key=key)
    texts = [(name, (None, str(value))) for name, value in options.items() if value is not None]
    client = ServerClient(settings, server, seconds=_UPLOAD_SECONDS)
    job = client.json("POST", path, files=[*images, *texts])
    jobs = JobsApi(settings, server)
    follow_job(jobs, job["id"], only_progress=True)
    jobs.fetch(job["id"], RESULT, target)
    print_path(target)

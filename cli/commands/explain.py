"""`opsin explain`: images in, overlays out; by a server if one runs, otherwise here."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import typer
from PIL import Image
from rich.markup import escape

from cli.clients.types import InferenceClient, OverlayOptions
from cli.commands.classify import client_for
from cli.options import Key, Local, Server
from cli.output import CommandError, answers, suppress_logs, waiting
from cli.settings import load
from contracts.inference.explanation import METHODS
from contracts.queue.explain_messages import PIXEL_METHODS
from models.rendering.contact_sheet import Tile, contact_sheet, to_png

_TILE_PIXELS = 320


def explain(  # noqa: PLR0917 (typer reads options from the parameters)
    photos: Annotated[list[Path], typer.Argument(metavar="PHOTO", help="Image files.")],
    method: Annotated[
        Literal[
            "grad_cam",
            "hires_cam",
            "grad_cam_plus_plus",
            "layer_cam",
            "score_cam",
            "smooth_grad",
            "integrated_gradients",
            "occlusion",
        ],
        typer.Option(help="How the evidence is computed."),
    ] = "grad_cam",
    out: Annotated[
        Path | None, typer.Option(help="A PNG, or a folder. Default: the image's folder.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Default: the first of OPSIN_MODELS that is here.")
    ] = None,
    class_index: Annotated[
        int | None, typer.Option("--class", min=0, help="Default: the most probable.")
    ] = None,
    layer: Annotated[str | None, typer.Option(help="Default: the last convolution.")] = None,
    legend: Annotated[bool, typer.Option("--legend", help="Add a title and a color bar.")] = False,
    all_methods: Annotated[
        bool, typer.Option("--all-methods", help="One sheet of all eight.")
    ] = False,
    alpha: Annotated[float, typer.Option(min=0, max=1, help="Opacity of the heatmap.")] = 0.5,
    colormap: Annotated[
        Literal["jet", "turbo", "viridis", "inferno", "magma", "plasma", "gray"],
        typer.Option(help="Colors of the heatmap."),
    ] = "jet",
    server: Server = None,
    local: Local = False,
    key: Key = None,
) -> None:
    """Show which parts of images speak for their class.

    A running server answers; without one, the model runs in this process.
    """
    options = OverlayOptions(model, method, class_index, layer, legend, alpha, colormap)
    if layer is not None and method in PIXEL_METHODS and not all_methods:
        raise CommandError(f"{method} uses no layer. Leave --layer out.")
    targets = [_target(path, out, several=len(photos) > 1) for path in photos]
    client = client_for(load(key=key), server, model, local=local)
    for path, target in zip(photos, targets, strict=True):
        data = _read(path)
        with suppress_logs() as console, waiting(console, f"Explaining {path.name}"):
            if all_methods:
                overlay = _sheet(client, path.name, data, options)
            else:
                overlay = client.explain(data, options)
        _write(target, overlay)
        answers().print(f"{escape(path.name)} → {escape(str(target))}")


def _sheet(client: InferenceClient, title: str, data: bytes, options: OverlayOptions) -> bytes:
    tiles = []
    for method in METHODS:
        layer = None if method in PIXEL_METHODS else options.layer
        overlay = client.explain(data, replace(options, method=method, layer=layer, legend=False))
        image = Image.open(io.BytesIO(overlay)).convert("RGB")
        image.thumbnail((_TILE_PIXELS, _TILE_PIXELS))
        tiles.append(Tile(np.asarray(image), method))
    return to_png(contact_sheet(tiles, title=title, columns=4))


def _target(path: Path, out: Path | None, *, several: bool) -> Path:
    """Where an image's overlay goes: never over the image itself."""
    name = f"{path.stem}-heatmap.png"
    if out is None:
        return path.with_name(name)
    if out.is_dir() or several:
        return out / name
    if out.resolve() == path.resolve():
        raise CommandError("--out is the image itself. Name another file.")
    return out


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CommandError(f"{path} cannot be read ({error.strerror}).") from None


def _write(target: Path, content: bytes) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    except OSError as error:
        raise CommandError(f"{target} cannot be written ({error.strerror}).") from None

"""`opsin explain`: images in, heatmaps out; by a server if one runs, otherwise here."""

import io
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer
from PIL import Image
from pydantic import TypeAdapter
from rich.console import Console

from cli.clients.http import for_each_image
from cli.clients.types import ClassifyOptions, ImageFile, InferenceClient, OverlayOptions
from cli.commands.classify import client_for
from cli.image_files import find_images
from cli.options import Key, Local, Server
from cli.output import (
    CommandError,
    as_command_error,
    note_replaced,
    notes,
    print_path,
    suppress_logs,
    waiting,
    written_file,
)
from cli.settings import load
from cli.streams import shown
from contracts.inference.explanation import METHODS, Method
from contracts.queue.explain_messages import PIXEL_METHODS
from contracts.suggestions import similar
from models.rendering.colormaps import Colormap, colors_of
from models.rendering.contact_sheet import TITLE_SIZE, Tile, contact_sheet, to_png
from models.rendering.legend import percent, with_legend

Output = Literal["overlay", "map", "json"]

_TILE_PIXELS = 320
_MOST_CLASSES = 1000
_STDOUT = Path("-")
_COLORMAP: TypeAdapter[Colormap] = TypeAdapter(Colormap)


def explain(  # noqa: PLR0917 (typer reads options from the parameters)
    photos: Annotated[list[Path], typer.Argument(metavar="IMAGE", help="Image files.")],
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
        Path | None,
        typer.Option(
            "--out", "-o", help="A file, a folder, or - for stdout. Default: the working folder."
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Default: the first of OPSIN_MODELS that is here.")
    ] = None,
    chosen: Annotated[
        str | None,
        typer.Option("--class", help="Its name or number. Default: the most probable."),
    ] = None,
    layer: Annotated[str | None, typer.Option(help="Default: the last convolution.")] = None,
    output: Annotated[
        Output, typer.Option(help="The heatmap over the image, alone, or as numbers.")
    ] = "overlay",
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
    view: Literal["overlay", "map"] = "map" if output == "map" else "overlay"
    options = OverlayOptions(model, method, _number(chosen), layer, legend, alpha, colormap, view)
    if layer is not None and method in PIXEL_METHODS and not all_methods:
        raise CommandError(f"{method} uses no layer. Leave --layer out.")
    if output == "json" and (all_methods or legend):
        raise CommandError("--output json takes neither --all-methods nor --legend.", exit_code=2)
    images = find_images(photos, recursive=False)
    targets = _targets(images, out, ending="json" if output == "json" else "png")
    client = client_for(load(key=key), server, model, local=local)
    label = chosen if options.class_index is None else None
    failed = _explain_each(client, images, targets, options, output, label=label, sheet=all_methods)
    if failed:
        raise CommandError(f"{failed:,} of {len(images):,} images could not be explained.")


def _explain_each(
    client: InferenceClient,
    images: Sequence[Path],
    targets: Sequence[Path],
    options: OverlayOptions,
    output: Output,
    *,
    label: str | None,
    sheet: bool,
) -> int:
    """Write the heatmap of each image; how many failed, unless it is the only one."""
    target_of = dict(zip(images, targets, strict=True))

    def explain_one(path: Path) -> None:
        with as_command_error():
            data = _read(path)
            wanted = options if label is None else _of_class(client, path, data, options, label)
            content = _explained(client, path, data, wanted, output, sheet=sheet)
        _write(target_of[path], content)
        if target_of[path] != _STDOUT:
            print_path(target_of[path])

    return for_each_image(images, explain_one)


def _explained(
    client: InferenceClient,
    path: Path,
    data: bytes,
    options: OverlayOptions,
    output: Output,
    *,
    sheet: bool,
) -> bytes:
    with suppress_logs() as console:
        if sheet:
            return _sheet(client, path.name, data, options, console)
        with waiting(console, f"Explaining {shown(path.name)}"):
            return _heatmap(client, data, options, output)


def _number(chosen: str | None) -> int | None:
    """The number of a class that is chosen by it."""
    return int(chosen) if chosen is not None and chosen.isascii() and chosen.isdigit() else None


def _of_class(
    client: InferenceClient, path: Path, data: bytes, options: OverlayOptions, label: str
) -> OverlayOptions:
    """The options for the class of that name; of two with one name, the more probable.

    Raises:
        CommandError: The model has no such class, or the image is none.
    """
    every = ClassifyOptions(options.model, _MOST_CLASSES, None)
    with waiting(notes(), f"Looking for the class {shown(label)}"):
        (result,) = client.classify([ImageFile(path.name, data)], every).results
    if result.error is not None:
        raise CommandError(result.error.detail)
    found = result.predictions or []
    exact = [one for one in found if label in {one.label, one.id}]
    similar_ones = [
        one
        for one in found
        if label.casefold() in {one.label.casefold(), (one.id or "").casefold()}
    ]
    for one in (*exact, *similar_ones):
        return replace(options, class_index=one.index)
    hint = similar(label, [one.label for one in found])
    raise CommandError(
        f"The model has no class '{label}'.{hint} `opsin classify --top 1000` lists all of them.",
        exit_code=2,
    )


def _heatmap(
    client: InferenceClient, data: bytes, options: OverlayOptions, output: Output
) -> bytes:
    if output == "json":
        return json.dumps(client.explain_numbers(data, options)).encode() + b"\n"
    return client.explain(data, options)


def _sheet(
    client: InferenceClient, name: str, data: bytes, options: OverlayOptions, console: Console
) -> bytes:
    """All methods for one class, which is chosen once, and so has one probability."""
    tiles = []
    with waiting(console, f"Explaining {shown(name)}") as update:
        numbers = client.explain_numbers(data, replace(options, method=METHODS[0]))
        target = numbers["target"]
        for number, method in enumerate(METHODS, 1):
            update(f"Explaining {shown(name)}: {method}, {number} of {len(METHODS)}")
            one = _for_method(options, method, target["index"])
            image = Image.open(io.BytesIO(client.explain(data, one))).convert("RGB")
            image.thumbnail((_TILE_PIXELS, _TILE_PIXELS))
            tiles.append(Tile(np.asarray(image), method))
    title = _title(name, numbers)
    sheet = contact_sheet(tiles, title="" if options.legend else title, columns=4)
    if options.legend:
        colors = colors_of(_COLORMAP.validate_python(options.colormap))
        sheet = with_legend(sheet, title, colors, size=TITLE_SIZE)
    return to_png(sheet)


def _for_method(options: OverlayOptions, method: Method, index: int) -> OverlayOptions:
    layer = None if method in PIXEL_METHODS else options.layer
    return replace(options, method=method, layer=layer, class_index=index, legend=False)


def _title(name: str, numbers: dict[str, Any]) -> str:
    target = numbers["target"]
    title = (
        f"{shown(name)}: {target['label']} {percent(target['probability'])}, {numbers['model']} "
        f"version {numbers['version']}"
    )
    return f"{title}, layer {numbers['layer']}" if numbers.get("layer") else title


def _targets(images: Sequence[Path], out: Path | None, *, ending: str) -> list[Path]:
    """Where each image's heatmap goes: never over an image, never two to one file."""
    if out == _STDOUT:
        if len(images) > 1:
            raise CommandError("--out - takes one image.", exit_code=2)
        return [_STDOUT]
    if out is not None and not out.is_dir() and len(images) == 1:
        if out.resolve() == images[0].resolve():
            raise CommandError("--out is the image itself. Name another file.")
        return [out]
    folder = Path() if out is None else out
    targets: list[Path] = []
    taken: set[str] = set()
    for image in images:
        name = next(name for name in _names(image, ending) if name not in taken)
        taken.add(name)
        targets.append(folder / name)
    return targets


def _names(image: Path, ending: str) -> Iterator[str]:
    """cat-heatmap.png, then cat-2-heatmap.png for another image of that name, and so on."""
    yield f"{image.stem}-heatmap.{ending}"
    number = 2
    while True:
        yield f"{image.stem}-{number}-heatmap.{ending}"
        number += 1


def _read(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CommandError(f"{path} cannot be read ({error.strerror}).") from None
    if not data:
        raise CommandError(f"{path} is empty.")
    return data


def _write(target: Path, content: bytes) -> None:
    if target == _STDOUT:
        sys.stdout.buffer.write(content)
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(f"{target} cannot be written ({error.strerror}).") from None
    note_replaced(target)
    with written_file(target) as file:
        file.write(content)

"""`opsin explain`: photos in, overlays out; through a server if there is one, else here."""

import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image
from rich.markup import escape

from cli.clients.api import server_for
from cli.output import CommandError, answers, muffled, waiting
from contracts.inference.explanation import METHODS, Method
from contracts.queue.explain_messages import PIXEL_METHODS
from contracts.settings import Settings
from models.explain.contact_sheet import Tile, png, sheet

_TILE_PIXELS = 320


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be explained and how it is shown.

    Attributes:
        model: The network; None for the default one.
        method: How.
        class_index: The class; None for the most probable one.
        layer: Whose maps are weighed; None for the network's own.
        legend: Whether with title and color bar.
        alpha: Of the map over the photo.
        colormap: Its colors.
    """

    model: str | None
    method: Method
    class_index: int | None
    layer: str | None
    legend: bool
    alpha: float
    colormap: str


class Explains(Protocol):
    """A running server, or the network in this process."""

    def __call__(self, data: bytes, wanted: Wanted) -> bytes:
        """The overlay as PNG.

        Raises:
            CommandError: There is none.
        """


def explain(
    settings: Settings,
    photos: list[Path],
    wanted: Wanted,
    *,
    out: Path | None,
    all_methods: bool,
    server: str | None,
    local: bool,
) -> None:
    """Writes an overlay of each photo, or a sheet of all methods.

    Raises:
        CommandError: A photo cannot be read or explained, or a file not be written.
    """
    targets = [_target(photo, out, several=len(photos) > 1) for photo in photos]
    explains = _explains(settings, server, local=local)
    for photo, target in zip(photos, targets, strict=True):
        data = _read(photo)
        with muffled() as console, waiting(console, f"Explaining {photo.name}"):
            drawn = _sheet(explains, photo, data, wanted) if all_methods else explains(data, wanted)
        _write(target, drawn)
        answers().print(f"{escape(photo.name)} → {escape(str(target))}")


def _sheet(explains: Explains, photo: Path, data: bytes, wanted: Wanted) -> bytes:
    tiles = []
    for method in METHODS:
        layer = None if method in PIXEL_METHODS else wanted.layer
        one = replace(wanted, method=method, layer=layer, legend=False)
        picture = Image.open(io.BytesIO(explains(data, one))).convert("RGB")
        picture.thumbnail((_TILE_PIXELS, _TILE_PIXELS))
        tiles.append(Tile(np.asarray(picture), method))
    return png(sheet(tiles, title=photo.name, columns=4))


def _explains(settings: Settings, server: str | None, *, local: bool) -> Explains:
    if url := server_for(settings, server, local=local):
        from cli.clients.explain_remote import RemoteExplainer

        return RemoteExplainer(settings, url)
    from cli.clients.explain_local import LocalExplainer  # loads the model code

    return LocalExplainer(settings)


def _target(photo: Path, out: Path | None, *, several: bool) -> Path:
    """Where a photo's overlay goes: never over the photo itself."""
    name = f"{photo.stem}-heatmap.png"
    if out is None:
        return photo.with_name(name)
    if out.is_dir() or several:
        return out / name
    if out.resolve() == photo.resolve():
        raise CommandError("--out is the photo itself. Name another file.")
    return out


def _read(photo: Path) -> bytes:
    try:
        return photo.read_bytes()
    except OSError as error:
        raise CommandError(f"{photo} cannot be read ({error.strerror}).") from None


def _write(target: Path, content: bytes) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    except OSError as error:
        raise CommandError(f"{target} cannot be written ({error.strerror}).") from None

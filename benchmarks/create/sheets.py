"""The contact sheets of docs/how-to/create.md, made by the handlers of the jobs themselves.

python -m benchmarks.create.sheets FOLDER SHEET ...

Finished images stay in FOLDER/made, so that a run that was interrupted goes on. The photos are
scikit-image's (`opsin weights pull` fetches them), the styles are made by `patterns`.
"""

import argparse
import io
import json
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from benchmarks.create.patterns import STYLES
from contracts.create.requests import (
    CONTENT_FILE,
    IMAGE_FILE,
    RESULT,
    StyleTransferRequest,
    style_file,
)
from contracts.jobs import Progress
from contracts.settings import Settings
from contracts.work import Work
from models.create.style.plan import plan
from models.rendering.contact_sheet import Tile, contact_sheet

PHOTOS = ("cat", "coffee", "astronaut")
SIDE = 192
DREAM_SIDE = 288
_QUALITY = 80
_DEFAULT: int = StyleTransferRequest.model_fields["iterations"].default

Handler = Callable[[Any, Settings], dict[str, Any]]


@dataclass
class SheetWork(Work):
    """A job without a server; its artifacts stay in memory."""

    request: dict[str, Any]
    folder: Path
    job_id: str = "sheet"
    attempt: int = 1
    result: bytes = b""

    def progress(self, progress: Progress) -> None: ...

    def metrics(self, row: dict[str, Any]) -> None: ...

    def artifact(self, name: str, media_type: str, content: bytes) -> None:  # noqa: ARG002
        """Keep the result."""
        if name == RESULT:
            self.result = content

    def last_artifact(self, name: str, media_type: str, content: bytes) -> None: ...

    def check(self) -> None: ...


class Studio:
    """Makes images by jobs, each one once.

    Args:
        made: A folder of finished images.

    Attributes:
        seconds: Of the processor, that the latest image took when it was made.
    """

    seconds: float

    def __init__(self, made: Path, settings: Settings) -> None:
        self._made, self._settings = made, settings
        made.mkdir(parents=True, exist_ok=True)

    def photo(self, name: str) -> Image.Image:
        """The middle of a photo of scikit-image, `SIDE` pixels wide and high."""
        image = Image.open(self._settings.home / "samples" / f"{name}.png").convert("RGB")
        return ImageOps.fit(image, (SIDE, SIDE), Image.Resampling.LANCZOS)

    def styled(self, photo: str, style: str, **request: Any) -> Image.Image:
        """A photo in a style of `benchmarks.create.patterns`."""
        files = {CONTENT_FILE: self.photo(photo), style_file(0): STYLES[style](SIDE)}
        from models.create.style.job import run

        return self._run(f"{photo}-{style}", run, files, {"size": SIDE, "styles": 1} | request)

    def dreamt(self, photo: str, **request: Any) -> Image.Image:
        """A dream of a photo."""
        from models.create.dream_job import run

        return self._run(f"{photo}-dream", run, {IMAGE_FILE: self.photo(photo)}, request)

    def _run(
        self, name: str, run: Handler, files: Mapping[str, Image.Image], request: dict[str, Any]
    ) -> Image.Image:
        text = json.dumps(request, sort_keys=True)
        path = self._made / f"{name.replace(' ', '-')}-{zlib.crc32(text.encode()):08x}.png"
        if not path.exists():
            with TemporaryDirectory() as folder:
                for file, image in files.items():
                    image.save(Path(folder) / file, "PNG")
                work = SheetWork(request, Path(folder))
                began = time.process_time()
                run(work, self._settings)
                seconds = time.process_time() - began
                path.with_suffix(".seconds").write_text(f"{seconds:.1f}")
                path.write_bytes(work.result)
        self.seconds = float(path.with_suffix(".seconds").read_text())
        return Image.open(io.BytesIO(path.read_bytes())).convert("RGB")


def tile(image: Image.Image, title: str) -> Tile:
    """An image of a sheet, with its title."""
    return Tile(np.asarray(image), title)


def _heading() -> list[Tile]:
    blank = np.full((SIDE, SIDE, 3), 255, np.uint8)
    return [Tile(blank, ""), *(tile(make(SIDE), name) for name, make in STYLES.items())]


def styles_sheet(studio: Studio) -> Image.Image:
    """Three contents in three styles."""
    tiles = _heading()
    for photo in PHOTOS:
        tiles.append(tile(studio.photo(photo), photo))
        tiles += [tile(studio.styled(photo, style), "") for style in STYLES]
    return contact_sheet(tiles, columns=4)


def fast_sheet(studio: Studio) -> Image.Image:
    """The same by the fast method."""
    tiles = _heading()
    for photo in PHOTOS:
        tiles.append(tile(studio.photo(photo), photo))
        tiles += [tile(studio.styled(photo, style, method="fast"), "") for style in STYLES]
    return contact_sheet(tiles, columns=4)


def colors_sheet(studio: Studio) -> Image.Image:
    """`preserve_colors` in its three values."""
    tiles = [tile(studio.photo("coffee"), "coffee, in strokes")]
    for value in ("none", "luminance", "histogram"):
        options = {} if value == "none" else {"preserve_colors": value}
        tiles.append(tile(studio.styled("coffee", "strokes", **options), value))
    return contact_sheet(tiles, columns=4)


def pyramid_sheet(studio: Studio) -> Image.Image:
    """With the pyramid and without, at equal evaluations and at equal cost."""
    cost = sum(level.cost for level in plan((SIDE, SIDE), _DEFAULT, pyramid=True, minimum_side=16))
    equal = round(cost / SIDE**2)
    tiles = [tile(studio.photo("cat"), "cat, in strokes")]
    for title, options in (
        (f"pyramid, {_DEFAULT} evaluations", {}),
        (f"none, {equal}: equal cost", {"pyramid": False, "iterations": equal}),
        (f"none, {_DEFAULT}", {"pyramid": False}),
    ):
        tiles.append(tile(studio.styled("cat", "strokes", **options), title))
    return contact_sheet(tiles, columns=4)


def dreams_sheet(studio: Studio) -> Image.Image:
    """Dreams of two networks, and of one at three depths."""
    size = {"size": DREAM_SIDE}
    lite = "efficientnet_lite0"
    early = "block3b_expand_activation,block5b_expand_activation"
    middle = "block4c_expand_activation"
    tiles = [
        tile(studio.dreamt("astronaut", model="squeezenet", **size), "squeezenet"),
        tile(studio.dreamt("cat", model=lite, **size), lite),
        tile(studio.dreamt("cat", model=lite, layers=early, **size), f"{lite}, blocks 3b and 5b"),
        tile(studio.dreamt("cat", model=lite, layers=middle, **size), f"{lite}, block 4c"),
    ]
    return contact_sheet(tiles, columns=2)


SHEETS: dict[str, Callable[[Studio], Image.Image]] = {
    "styles": styles_sheet,
    "fast": fast_sheet,
    "colors": colors_sheet,
    "pyramid": pyramid_sheet,
    "dreams": dreams_sheet,
}


def main() -> None:
    """Write the sheets that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("sheets", nargs="*", choices=[[], *SHEETS])
    arguments = parser.parse_args()
    studio = Studio(arguments.folder / "made", Settings())
    for name in arguments.sheets or SHEETS:
        SHEETS[name](studio).save(arguments.folder / f"create-{name}.jpg", quality=_QUALITY)
        print(name)


if __name__ == "__main__":
    main()

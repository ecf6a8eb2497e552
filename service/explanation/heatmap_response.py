"""What a client gets of heatmaps that were made: numbers, or one picture."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from fastapi import Request
from fastapi.responses import Response

from contracts.errors import InternalError, OpsinError
from contracts.inference.heatmap import HeatmapResponse, HeatmapResult
from contracts.inference.inference import ItemError, Resize
from contracts.queue.explain_messages import PIXEL_METHODS, MapAsk, MapNote
from models.explain.results import heatmap_of, layer_of, region_of
from models.images.decode import Picture
from models.images.resize import Box, seen_box
from models.rendering.heatmap import Look, render
from models.store.snapshot import Served
from service.dependencies import Services
from service.explanation.client import Told
from service.http.deadlines import Deadline
from service.http.headers import Kind
from service.http.server_timing import milliseconds, timing_of
from service.http.uploads import Upload
from service.inference.decoder import Decoded

PNG: Kind = "image/png"

# Written by the event loop itself in a millisecond or two; more is the renderer's work.
_FEW_NUMBERS = 4096


@dataclass(frozen=True, slots=True)
class Wish:
    """What a client wants explained, and how it wants to see it.

    Attributes:
        question: What is asked of each image.
        model: By name; None for the first that is ready.
        version: A number or an alias; None for the champion.
        classes: To be explained, in order; none for the most probable one.
        resize: How an image becomes the network's input.
        look: How a picture of it looks.
        kind: Numbers or a picture.
    """

    question: MapAsk
    model: str | None
    version: str | None
    classes: tuple[int, ...]
    resize: Resize
    look: Look
    kind: Kind

    @property
    def draws_on_image(self) -> bool:
        """Whether the image is needed again when its map is there."""
        return self.kind == PNG and self.look.shown == "overlay"


@dataclass(frozen=True, slots=True)
class Made:
    """One image and its maps, one a class, or its error."""

    decoded: Decoded
    maps: list[Told] | OpsinError

    @property
    def told(self) -> list[Told]:
        """The maps, if there are any."""
        return [] if isinstance(self.maps, OpsinError) else self.maps


@dataclass(frozen=True, slots=True)
class HeatmapAnswer:
    """The maps of one request, to be written.

    Attributes:
        services: Its renderer does what takes long.
        request: The request that is answered.
        wish: What it asks for.
        network: What made the maps.
        version: Its number.
        deadline: When it must be answered.
    """

    services: Services
    request: Request
    wish: Wish
    network: Served
    version: int
    deadline: Deadline

    async def write(self, uploads: Sequence[Upload], made: Sequence[Made]) -> Response:
        """All maps as JSON, or those of the only image as PNG.

        Raises:
            OpsinError: The only image has none, or there is no time left.
        """
        if len(made) == 1 and isinstance(made[0].maps, OpsinError):
            raise made[0].maps
        if self.wish.kind == PNG:
            return await self._picture(uploads[0], made[0])
        if sum(told.vector.size for one in made for told in one.told) <= _FEW_NUMBERS:
            return self._json(made)
        work = partial(self._json, made)
        return await self.services.renderer.run(work, deadline_seconds=self.deadline.remaining)

    def _json(self, made: Sequence[Made]) -> Response:
        results = [self._result(one) for one in made]
        question = self.wish.question
        named = question.layer or self.network.manifest.explain_layer
        whole = HeatmapResponse(
            **(dict(results[0]) if len(results) == 1 else {"results": results}),
            model=self.network.name,
            version=self.version,
            method=question.method,
            layer=None if question.method in PIXEL_METHODS else named,
            timing_ms=timing_of(
                self.request,
                [one.decoded for one in made],
                [told for one in made for told in one.told],
            ),
        )
        return Response(
            whole.model_dump_json(exclude_none=True),
            media_type="application/json",
            headers={"Vary": "Accept"},
        )

    def _result(self, one: Made) -> HeatmapResult:
        picture = one.decoded.picture
        if isinstance(one.maps, OpsinError) or isinstance(picture, OpsinError):
            error = one.maps if isinstance(one.maps, OpsinError) else InternalError("No picture.")
            told = ItemError(code=error.code, detail=error.detail)
            return HeatmapResult(name=one.decoded.name, error=told)
        labels = self.network.labels
        maps = [
            heatmap_of(told.vector, _note(told), labels, cached=told.cached) for told in one.maps
        ]
        several = len(self.wish.classes) > 1
        return HeatmapResult(
            name=one.decoded.name,
            width=picture.width,
            height=picture.height,
            region=region_of(self._box(picture)),
            **({"maps": maps} if several else dict(maps[0])),
        )

    async def _picture(self, upload: Upload, made: Made) -> Response:
        """The PNG, made by the renderer's thread: it costs as much as decoding, or more."""
        picture = made.decoded.picture
        if isinstance(picture, OpsinError) or isinstance(made.maps, OpsinError):
            raise InternalError("There is no picture.")
        if isinstance(upload.data, OpsinError):
            raise upload.data
        method, labels = self.wish.question.method, self.network.labels
        began = time.monotonic()
        work = partial(
            render,
            upload.data if picture.whole is None else picture.whole,
            [layer_of(told.vector, _note(told), labels, method) for told in made.maps],
            size=(picture.width, picture.height),
            box=self._box(picture),
            look=self.wish.look,
            max_pixels=self.services.settings.max_image_pixels,
            check=self.deadline.require,
        )
        png = await self.services.renderer.run(work, deadline_seconds=self.deadline.remaining)
        return Response(png, media_type=PNG, headers=self._headers(made, time.monotonic() - began))

    def _box(self, picture: Picture) -> Box:
        height, width = self.network.input_size
        size = (picture.width, picture.height)
        return seen_box(size, (width, height), self.network.short_side, self.wish.resize)

    def _headers(self, made: Made, rendered: float) -> dict[str, str]:
        timing = timing_of(self.request, [made.decoded], made.told)
        parts = {
            "decode": timing.decode,
            "queue": timing.queue,
            "compute": timing.compute,
            "render": milliseconds(rendered),
            "total": timing.total,
        }
        return {
            "Server-Timing": ", ".join(f"{name};dur={value}" for name, value in parts.items()),
            "X-Cache": "hit" if all(one.cached for one in made.told) else "miss",
            "Vary": "Accept",
        }


def _note(told: Told) -> MapNote:
    return MapNote.model_validate_json(told.note)

"""The response to a request for heatmaps: numbers as JSON, or one PNG."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from fastapi import Request
from fastapi.responses import Response

from contracts.errors import InternalError, OpsinError
from contracts.inference.heatmap import HeatmapResponse, HeatmapResult
from contracts.inference.inference import ItemError, Resize
from contracts.queue.explain_messages import PIXEL_METHODS, ExplainReply, ExplainRequest
from contracts.tracing.spans import span
from models.explain.results import heatmap_layer, heatmap_of, region_of
from models.images.decode import DecodedImage
from models.images.resize import Box, visible_box
from models.rendering.heatmap import RenderOptions, render
from models.store.snapshot import ServedVersion
from service.dependencies import Services
from service.explanation.client import ExplainResult
from service.http.deadlines import Deadline
from service.http.headers import MediaType
from service.http.server_timing import milliseconds, timing_of
from service.http.uploads import Upload
from service.inference.decoder import DecodedUpload
from service.metrics.request_record import current_record

PNG: MediaType = "image/png"

# The event loop writes this many numbers in a millisecond or two; more go to the renderer.
_MAX_NUMBERS_ON_LOOP = 4096


@dataclass(frozen=True, slots=True)
class HeatmapOptions:
    """The parameters of a request.

    Attributes:
        question: The explain request, the same for each image.
        model: Its name; None for the first that is ready.
        version: A number or an alias; None for the champion.
        classes: The classes to explain, in order; empty for the most probable one.
        resize: How an image becomes the network's input; None for the version's own way.
        look: How a PNG shows the heatmap.
        media_type: JSON or PNG.
    """

    question: ExplainRequest
    model: str | None
    version: str | None
    classes: tuple[int, ...]
    resize: Resize | None
    look: RenderOptions
    media_type: MediaType

    @property
    def draws_on_image(self) -> bool:
        """Whether the image is needed again once its heatmap is computed."""
        return self.media_type == PNG and self.look.shown == "overlay"


@dataclass(frozen=True, slots=True)
class HeatmapOutcome:
    """One image and its heatmaps, one for each class, or its error."""

    decoded: DecodedUpload
    heatmaps: list[ExplainResult] | OpsinError

    @property
    def error(self) -> OpsinError | None:
        return self.heatmaps if isinstance(self.heatmaps, OpsinError) else None

    @property
    def results(self) -> list[ExplainResult]:
        """The heatmaps; empty if there is an error."""
        return [] if isinstance(self.heatmaps, OpsinError) else self.heatmaps


@dataclass(frozen=True, slots=True)
class HeatmapWriter:
    """Writes the response to one request.

    Attributes:
        services: The application's services; its renderer does what takes long.
        request: The request.
        options: Its parameters.
        network: The version that computed the heatmaps.
        version: Its number.
        deadline: When the request must be answered.
    """

    services: Services
    request: Request
    options: HeatmapOptions
    network: ServedVersion
    version: int
    deadline: Deadline

    async def write(
        self, uploads: Sequence[Upload], outcomes: Sequence[HeatmapOutcome]
    ) -> Response:
        """All heatmaps as JSON, or those of the only image as PNG.

        Raises:
            OpsinError: The only image has an error, or there is no time left.
        """
        if len(outcomes) == 1 and outcomes[0].error is not None:
            raise outcomes[0].error
        if self.options.media_type == PNG:
            return await self._png(uploads[0], outcomes[0])
        numbers = sum(result.vector.size for outcome in outcomes for result in outcome.results)
        if numbers <= _MAX_NUMBERS_ON_LOOP:
            return self._json(outcomes)
        work = partial(self._json, outcomes)
        return await self.services.renderer.run(work, deadline_seconds=self.deadline.remaining)

    def _json(self, outcomes: Sequence[HeatmapOutcome]) -> Response:
        results = [self._result(outcome) for outcome in outcomes]
        question = self.options.question
        layer = question.layer or self.network.manifest.explain_layer
        response = HeatmapResponse(
            **(dict(results[0]) if len(results) == 1 else {"results": results}),
            model=self.network.name,
            version=self.version,
            method=question.method,
            layer=None if question.method in PIXEL_METHODS else layer,
            timing_ms=timing_of(
                self.request,
                [outcome.decoded for outcome in outcomes],
                [result for outcome in outcomes for result in outcome.results],
            ),
        )
        return Response(
            response.model_dump_json(exclude_none=True),
            media_type="application/json",
            headers={"Vary": "Accept"},
        )

    def _result(self, outcome: HeatmapOutcome) -> HeatmapResult:
        image = outcome.decoded.image
        if isinstance(image, OpsinError) or outcome.error is not None:
            error = outcome.error or InternalError("No image.")
            item_error = ItemError(code=error.code, detail=error.detail)
            return HeatmapResult(name=outcome.decoded.name, error=item_error)
        labels = self.network.labels
        maps = [
            heatmap_of(result.vector, _reply(result), labels, cached=result.cached)
            for result in outcome.results
        ]
        several = len(self.options.classes) > 1
        return HeatmapResult(
            name=outcome.decoded.name,
            width=image.width,
            height=image.height,
            region=region_of(self._visible_box(image)),
            **({"maps": maps} if several else dict(maps[0])),
        )

    async def _png(self, upload: Upload, outcome: HeatmapOutcome) -> Response:
        """The PNG, drawn by a thread of the renderer: it costs at least as much as decoding."""
        image = outcome.decoded.image
        if isinstance(image, OpsinError):
            raise InternalError("There is no image.")
        if isinstance(upload.data, OpsinError):
            raise upload.data
        method, labels = self.options.question.method, self.network.labels
        began = time.monotonic()
        work = partial(
            render,
            upload.data if image.full_size is None else image.full_size,
            [
                heatmap_layer(result.vector, _reply(result), labels, method)
                for result in outcome.results
            ],
            size=(image.width, image.height),
            box=self._visible_box(image),
            options=self.options.look,
            max_pixels=self.services.settings.max_image_pixels,
            check=self.deadline.require,
        )
        with span("render"):
            png = await self.services.renderer.run(
                work,
                deadline_seconds=self.deadline.remaining,
                pixels=image.width * image.height,
            )
        seconds = time.monotonic() - began
        current_record().render_seconds = seconds
        headers = self._headers(outcome, seconds)
        return Response(png, media_type=PNG, headers=headers)

    def _visible_box(self, image: DecodedImage) -> Box:
        size = (image.width, image.height)
        return visible_box(size, self.network, self.options.resize)

    def _headers(self, outcome: HeatmapOutcome, render_seconds: float) -> dict[str, str]:
        timing = timing_of(self.request, [outcome.decoded], outcome.results)
        parts = {
            "decode": timing.decode,
            "queue": timing.queue,
            "compute": timing.compute,
            "render": milliseconds(render_seconds),
            "total": timing.total,
        }
        return {
            "Server-Timing": ", ".join(f"{name};dur={value}" for name, value in parts.items()),
            "X-Cache": "hit" if all(result.cached for result in outcome.results) else "miss",
            "Vary": "Accept",
        }


def _reply(result: ExplainResult) -> ExplainReply:
    return ExplainReply.model_validate_json(result.note)

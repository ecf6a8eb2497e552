"""The way of feature maps through the service: as a heatmap's, of one image and one layer."""

from dataclasses import dataclass
from functools import partial

from fastapi import Request
from fastapi.responses import Response

from contracts.errors import OpsinError, ValidationFailed
from contracts.inference.heatmap import ActivationsResponse
from contracts.queue.explain_messages import ActivationsAsk, ActivationsNote
from contracts.queue.messages import TOP_CLASS
from models.explain.results import channels_of
from models.rendering.channels import channels_png
from models.rendering.colormaps import Colormap
from models.store.snapshot import Served
from service.dependencies import Services
from service.explanation.client import Asked, Told, ask
from service.explanation.heatmap_response import PNG
from service.http.deadlines import Deadline
from service.http.disconnect import while_connected
from service.http.headers import Kind
from service.http.server_timing import timing_of
from service.http.uploads import Upload, read_uploads
from service.inference.decoder import Decoded, decode_uploads

MOST_NUMBERS = 500_000
"""Of an answer in JSON: 5 MB, half a second to write. Averages would not be the layer's maps."""


@dataclass(frozen=True, slots=True)
class Activations:
    """One request under way.

    Attributes:
        services: What does the work.
        request: The request, its body unread.
        question: What is asked.
        model: By name; None for the first that is ready.
        version: A number or an alias; None for the champion.
        colormap: Of the picture.
        kind: Numbers or a picture.
        deadline: When it must be answered.
    """

    services: Services
    request: Request
    question: ActivationsAsk
    model: str | None
    version: str | None
    colormap: Colormap
    kind: Kind
    deadline: Deadline

    async def answer(self) -> Response:
        """The maps as JSON or as one picture.

        Raises:
            OpsinError: The request cannot be answered.
            ClientDisconnect: The client hung up; its queued work is withdrawn.
        """
        async with self.deadline.enforced():
            network, version = self.services.presence.choose(self.model, self.version, "explain")
            await self._require_layer(network, version)
            self.services.dispatch.require_room(network.name, version, "explain")
            uploads = await read_uploads(self.request, self.services.settings)
            if len(uploads) > 1:
                raise ValidationFailed("Feature maps are of one image. Send one at a time.")
            work = self._answer(network, version, uploads[0])
            return await while_connected(self.request, work)

    async def _require_layer(self, network: Served, version: int) -> None:
        """Refuses a layer that is not there, and more numbers than make a sensible answer."""
        name = self.question.layer or network.manifest.explain_layer
        layer = await self.services.layers.require(network.name, version, name)
        if layer is not None:
            rows, columns, total = (side or 1 for side in layer.output_shape)
            self._check_size(min(self.question.channels, total), rows, columns)

    def _check_size(self, channels: int, rows: int, columns: int) -> None:
        if self.kind != PNG and channels * rows * columns > MOST_NUMBERS:
            fitting = MOST_NUMBERS // (rows * columns)
            instead = f"Ask for channels={fitting} or less, or f" if fitting else "F"
            raise ValidationFailed(
                f"{channels} maps of {rows} x {columns} are more than {MOST_NUMBERS} numbers. "
                f"{instead}or a picture with Accept: image/png."
            )

    async def _answer(self, network: Served, version: int, upload: Upload) -> Response:
        (decoded,) = await decode_uploads(
            self.services.decoder,
            [upload],
            network=network,
            resize="crop",
            deadline=self.deadline,
        )
        if isinstance(decoded.picture, OpsinError):
            raise decoded.picture
        (told,) = await ask(
            self.services,
            network.name,
            version,
            "explain",
            [Asked(decoded.picture.pixels, TOP_CLASS)],
            note=self.question.pack(),
            deadline=self.deadline,
        )
        if isinstance(told, OpsinError):
            raise told
        note = ActivationsNote.model_validate_json(told.note)
        self._check_size(len(note.channels), *note.shape)
        work = (
            partial(self._picture, network, version, told, note)
            if self.kind == PNG
            else partial(self._json, network, version, decoded, told, note)
        )
        # Up to some megabytes of numbers: too much for the event loop, either way.
        body = await self.services.renderer.run(work, deadline_seconds=self.deadline.remaining)
        headers = {"X-Cache": "hit" if told.cached else "miss", "Vary": "Accept"}
        return Response(body, media_type=self.kind, headers=headers)

    def _picture(self, network: Served, version: int, told: Told, note: ActivationsNote) -> bytes:
        title = (
            f"{network.name} {version}, {note.layer}: {len(note.channels)} of {note.total} channels"
        )
        return channels_png(told.vector, note, self.colormap, title)

    def _json(
        self, network: Served, version: int, decoded: Decoded, told: Told, note: ActivationsNote
    ) -> bytes:
        return (
            ActivationsResponse(
                model=network.name,
                version=version,
                layer=note.layer,
                channels=note.total,
                shape=list(note.shape),
                maps=channels_of(told.vector, note),
                timing_ms=timing_of(self.request, [decoded], [told]),
            )
            .model_dump_json()
            .encode()
        )

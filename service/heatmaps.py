"""The way of a heatmap through the service: choose, read, decode, ask, then numbers or a picture.

As in a classification, what is wrong with one image of several becomes its own result.
"""

import asyncio
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import Request
from fastapi.responses import Response

from contracts.errors import InternalError, ModelNotReady, OpsinError, ValidationFailed
from contracts.heatmap import HeatmapResponse, HeatmapResult
from contracts.inference import ItemError, Resize, Timing
from contracts.jobs import Job
from contracts.messages import TOP_CLASS
from contracts.notes import PIXEL_METHODS, MapAsk, MapNote, lane_of
from models.explain.heatmap_request import HeatmapJob, input_name
from models.explain.results import heatmap_of, layer_of, region_of
from models.rendering.heatmap import Look, render
from models.resizing import Box, seen_box
from models.shelves import Served
from service.accept import Kind
from service.asking import Asked, Told, ask
from service.connection import while_connected
from service.deadlines import Deadline
from service.decoding import Decoded, decode_uploads
from service.services import Picture, Services
from service.uploads import Upload, read_uploads

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


@dataclass(frozen=True, slots=True)
class _Made:
    """One image and its maps, one a class, or its error."""

    decoded: Decoded
    maps: list[Told] | OpsinError


@dataclass(frozen=True, slots=True)
class Heatmaps:
    """One request under way.

    Attributes:
        services: What does the work.
        request: The request, its body unread.
        wish: What it asks for.
        deadline: When it must be answered.
    """

    services: Services
    request: Request
    wish: Wish
    deadline: Deadline

    async def answer(self) -> Response:
        """The maps of all images of the request, as JSON or as one picture.

        Raises:
            OpsinError: The request as a whole cannot be answered, or its only image cannot.
            ClientDisconnect: The client hung up; its queued work is withdrawn.
        """
        async with self.deadline.enforced():
            network, version = self._choose()
            lane = lane_of(self.wish.question, network.manifest.explain_layer)
            await self._require_layer(network, version)
            self.services.dispatch.require_room(network.name, version, lane)
            uploads = await read_uploads(self.request, self.services.settings)
            self._check_count(len(uploads))
            return await while_connected(self.request, self._answer(network, version, uploads))

    async def job(self, key: str | None) -> Job:
        """A job that will make the maps; images are decoded, and refused, before it is made.

        Args:
            key: The client's `Idempotency-Key`, if it sent one.

        Raises:
            OpsinError: As `answer`, or the job is not accepted.
            ClientDisconnect: The client hung up.
        """
        async with self.deadline.enforced():
            network, version = self._choose()
            await self._require_layer(network, version)
            uploads = await read_uploads(self.request, self.services.settings)
            self._check_count(len(uploads), whole=True)
            decoded = await while_connected(self.request, self._decode(network, uploads))
            if len(decoded) == 1 and isinstance(decoded[0].picture, OpsinError):
                raise decoded[0].picture
            wish = self.wish
            request = HeatmapJob(
                model=network.name,
                version=version,
                question=wish.question,
                classes=list(wish.classes),
                resize=wish.resize,
                look=wish.look,
                names=[upload.name for upload in uploads],
            ).model_dump(mode="json")
            inputs = {
                input_name(at): upload.data
                for at, upload in enumerate(uploads)
                if isinstance(upload.data, bytes)
            }
            digest = await asyncio.to_thread(_digest, request, inputs) if key else ""
            return await self.services.queue.submit_work(
                "heatmap", request, inputs=inputs, idempotency=(key, digest) if key else None
            )

    def _choose(self) -> tuple[Served, int]:
        """Also refuses classes that do not exist, before anything is uploaded."""
        wish = self.wish
        network, version = self.services.presence.choose(wish.model, wish.version, "heatmap")
        count = network.manifest.classes or 0
        if wrong := [index for index in wish.classes if index >= count]:
            raise ValidationFailed(
                f"'{network.name}' has {count} classes, 0 to {count - 1}; class_index={wrong[0]} "
                "is none of them."
            )
        return network, version

    async def _require_layer(self, network: Served, version: int) -> None:
        """Likewise refuses a layer that does not exist, or has no maps."""
        if self.wish.question.layer is not None:
            await self.services.layers.require(network.name, version, self.wish.question.layer)

    def _check_count(self, images: int, *, whole: bool = False) -> None:
        if self.wish.kind == PNG and images > 1 and not whole:
            raise ValidationFailed(
                "A picture shows one image. Send one at a time, or ask for numbers with "
                "Accept: application/json."
            )
        maps, most = images * max(1, len(self.wish.classes)), self.services.settings.max_heatmaps
        if maps > most:
            raise ValidationFailed(
                f"{maps} heatmaps are more than the {most} of one request. Send fewer images or "
                "classes at a time."
            )

    async def _answer(self, network: Served, version: int, uploads: Sequence[Upload]) -> Response:
        decoded = await self._decode(network, uploads)
        made = await self._make(network, version, decoded)
        if any(isinstance(one.maps, ModelNotReady) for one in made):
            # The version was taken out of service while these waited: ask the one that followed.
            network, following = self._choose()
            if following != version:
                return await self._answer(network, following, uploads)
        if len(made) == 1 and isinstance(made[0].maps, OpsinError):
            raise made[0].maps
        if self.wish.kind == PNG:
            return await self._picture(network, uploads[0], made[0])
        numbers = sum(
            told.vector.size
            for one in made
            if not isinstance(one.maps, OpsinError)
            for told in one.maps
        )
        if numbers <= _FEW_NUMBERS:
            return self._json(network, version, made)
        work = partial(self._json, network, version, made)
        return await self.services.renderer.run(work, deadline_seconds=self.deadline.remaining)

    async def _decode(self, network: Served, uploads: Sequence[Upload]) -> list[Decoded]:
        return await decode_uploads(
            self.services.decoder,
            uploads,
            network=network,
            resize=self.wish.resize,
            deadline=self.deadline,
        )

    async def _make(self, network: Served, version: int, decoded: Sequence[Decoded]) -> list[_Made]:
        classes = self.wish.classes or (TOP_CLASS,)
        asked = [
            Asked(one.picture.pixels, index)
            for one in decoded
            if not isinstance(one.picture, OpsinError)
            for index in classes
        ]
        told = iter(
            await ask(
                self.services,
                network.name,
                version,
                lane_of(self.wish.question, network.manifest.explain_layer),
                asked,
                note=self.wish.question.pack(),
                deadline=self.deadline,
            )
        )
        return [_Made(one, _maps_of(one, told, len(classes))) for one in decoded]

    def _json(self, network: Served, version: int, made: Sequence[_Made]) -> Response:
        results = [self._result(network, one) for one in made]
        question = self.wish.question
        whole = HeatmapResponse(
            **(dict(results[0]) if len(results) == 1 else {"results": results}),
            model=network.name,
            version=version,
            method=question.method,
            layer=_layer_of(question, network),
            timing_ms=self._timing(made),
        )
        return Response(
            whole.model_dump_json(exclude_none=True),
            media_type="application/json",
            headers={"Vary": "Accept"},
        )

    def _result(self, network: Served, one: _Made) -> HeatmapResult:
        picture = one.decoded.picture
        if isinstance(one.maps, OpsinError) or isinstance(picture, OpsinError):
            error = one.maps if isinstance(one.maps, OpsinError) else InternalError("No picture.")
            told = ItemError(code=error.code, detail=error.detail)
            return HeatmapResult(name=one.decoded.name, error=told)
        labels = network.labels
        maps = [
            heatmap_of(told.vector, _note(told), labels, cached=told.cached) for told in one.maps
        ]
        several = len(self.wish.classes) > 1
        return HeatmapResult(
            name=one.decoded.name,
            width=picture.width,
            height=picture.height,
            region=region_of(self._box(network, picture)),
            **({"maps": maps} if several else dict(maps[0])),
        )

    async def _picture(self, network: Served, upload: Upload, made: _Made) -> Response:
        """The PNG, made by the renderer's thread: it costs as much as decoding, or more."""
        picture = made.decoded.picture
        if isinstance(picture, OpsinError) or isinstance(made.maps, OpsinError):
            raise InternalError("There is no picture.")
        if isinstance(upload.data, OpsinError):
            raise upload.data
        method = self.wish.question.method
        layers = [layer_of(told.vector, _note(told), network.labels, method) for told in made.maps]
        settings = self.services.settings
        began = time.monotonic()
        work = partial(
            render,
            upload.data,
            layers,
            size=(picture.width, picture.height),
            box=self._box(network, picture),
            look=self.wish.look,
            max_pixels=settings.max_image_pixels,
        )
        png = await self.services.renderer.run(work, deadline_seconds=self.deadline.remaining)
        rendered = time.monotonic() - began
        return Response(png, media_type=PNG, headers=self._headers(made, rendered))

    def _box(self, network: Served, picture: Picture) -> Box:
        height, width = network.input_size
        return seen_box(
            (picture.width, picture.height), (width, height), network.short_side, self.wish.resize
        )

    def _timing(self, made: Sequence[_Made]) -> Timing:
        told = [one for each in made if not isinstance(each.maps, OpsinError) for one in each.maps]
        return Timing(
            decode=_ms(max(one.decoded.seconds for one in made)),
            queue=_ms(max((one.queue_seconds for one in told), default=0)),
            compute=_ms(max((one.compute_seconds for one in told), default=0)),
            total=_ms(time.monotonic() - self.request.state.arrived),
        )

    def _headers(self, made: _Made, rendered: float) -> dict[str, str]:
        timing = self._timing([made])
        cached = not isinstance(made.maps, OpsinError) and all(one.cached for one in made.maps)
        parts = {
            "decode": timing.decode,
            "queue": timing.queue,
            "compute": timing.compute,
            "render": _ms(rendered),
            "total": timing.total,
        }
        return {
            "Server-Timing": ", ".join(f"{name};dur={value}" for name, value in parts.items()),
            "X-Cache": "hit" if cached else "miss",
            "Vary": "Accept",
        }


def _maps_of(
    one: Decoded, told: Iterator[Told | OpsinError], count: int
) -> list[Told] | OpsinError:
    if isinstance(one.picture, OpsinError):
        return one.picture
    found = [next(told) for _ in range(count)]
    maps = [each for each in found if isinstance(each, Told)]
    return maps if len(maps) == count else next(e for e in found if isinstance(e, OpsinError))


def _note(told: Told) -> MapNote:
    return MapNote.model_validate_json(told.note)


def _layer_of(question: MapAsk, network: Served) -> str | None:
    if question.method in PIXEL_METHODS:
        return None
    return question.layer or network.manifest.explain_layer


def _digest(request: dict[str, Any], inputs: dict[str, bytes]) -> str:
    """Equal for equal requests: what was asked, and each image's bytes."""
    digest = hashlib.sha256(json.dumps(request, sort_keys=True).encode())
    for name, data in inputs.items():
        digest.update(repr((name, len(data))).encode())
        digest.update(data)
    return digest.hexdigest()


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)

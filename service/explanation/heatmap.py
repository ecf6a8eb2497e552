"""The way of a heatmap through the service: choose, read, decode, ask; then it is written.

As in a classification, what is wrong with one image of several becomes its own result.
"""

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fastapi import Request
from fastapi.responses import Response

from contracts.errors import ModelNotReady, OpsinError, ValidationFailed
from contracts.jobs import Job
from contracts.queue.explain_messages import lane_of
from contracts.queue.messages import TOP_CLASS
from models.explain.heatmap_request import HeatmapJob, input_name
from models.store.snapshot import Served
from service.dependencies import Services
from service.explanation.client import Asked, Told, ask
from service.explanation.heatmap_response import PNG, HeatmapAnswer, Made, Wish
from service.http.deadlines import Deadline
from service.http.disconnect import while_connected
from service.http.idempotency import digest_of
from service.http.uploads import Upload, read_uploads
from service.inference.decoder import Decoded, decode_uploads

# While the network computes, the image waits for its map in up to 6 MB; a larger one is decoded
# again: it must not lie there at its full size for each request that waits.
_KEPT_PIXELS = 2_000_000


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
            # As it was sent: a champion that has changed since makes it no other request.
            named = {"model": wish.model, "version": wish.version}
            said = json.dumps(request | named, sort_keys=True)
            digest = await asyncio.to_thread(digest_of, said, uploads) if key else ""
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
        answer = HeatmapAnswer(
            self.services, self.request, self.wish, network, version, self.deadline
        )
        return await answer.write(uploads, made)

    async def _decode(self, network: Served, uploads: Sequence[Upload]) -> list[Decoded]:
        return await decode_uploads(
            self.services.decoder,
            uploads,
            network=network,
            resize=self.wish.resize,
            deadline=self.deadline,
            keep_pixels=_KEPT_PIXELS if self.wish.draws_on_image else 0,
        )

    async def _make(self, network: Served, version: int, decoded: Sequence[Decoded]) -> list[Made]:
        classes = self.wish.classes or (TOP_CLASS,)
        own_layer = network.manifest.explain_layer
        question = self.wish.question.plain(own_layer)
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
                lane_of(question, own_layer),
                asked,
                note=question.pack(),
                deadline=self.deadline,
            )
        )
        return [Made(one, _maps_of(one, told, len(classes))) for one in decoded]


def _maps_of(
    one: Decoded, told: Iterator[Told | OpsinError], count: int
) -> list[Told] | OpsinError:
    if isinstance(one.picture, OpsinError):
        return one.picture
    found = [next(told) for _ in range(count)]
    maps = [each for each in found if isinstance(each, Told)]
    return maps if len(maps) == count else next(e for e in found if isinstance(e, OpsinError))

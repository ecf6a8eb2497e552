"""Handles a request for heatmaps: choose a version, read, decode, explain; then it is written.

As in a classification, an error of one of several images becomes that image's result.
"""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import Request
from fastapi.responses import Response

from contracts.errors import OpsinError, ValidationFailed
from contracts.jobs import Job
from contracts.queue.explain_messages import operation_of
from contracts.queue.messages import TOP_CLASS
from contracts.queue.redis_keys import QueueName
from models.explain.heatmap_request import HeatmapJobRequest, input_file_name
from models.images.resize import default_resize
from models.store.snapshot import ServedVersion
from service.auth.face_models import require_consents, require_face_scope, require_still_usable
from service.auth.principal import quota_key
from service.dependencies import Services
from service.explanation.client import ExplainItem, ExplainResult, request_explanations
from service.explanation.heatmap_response import (
    PNG,
    HeatmapOptions,
    HeatmapOutcome,
    HeatmapWriter,
)
from service.faces.portraits import with_portraits
from service.http.deadlines import Deadline
from service.http.disconnect import while_connected
from service.http.uploads import Upload, read_uploads, request_fingerprint
from service.inference.decoder import DecodedUpload, decode_uploads
from service.inference.handler import compute_with_retry

# While the network computes, the image waits for its heatmap in up to 6 MB. A larger one is decoded
# again, so that waiting requests do not hold images at full size.
_MAX_KEPT_PIXELS = 2_000_000


@dataclass(frozen=True, slots=True)
class HeatmapHandler:
    """Handles one request.

    Attributes:
        services: The application's services.
        request: The request, its body not yet read.
        options: Its parameters.
        deadline: When it must be answered.
    """

    services: Services
    request: Request
    options: HeatmapOptions
    deadline: Deadline

    async def answer(self) -> Response:
        """The heatmaps of all images of the request, as JSON or as one PNG.

        Raises:
            OpsinError: The request as a whole cannot be answered, or its only image cannot.
            ClientDisconnect: The client disconnected; its queued images are withdrawn.
        """
        async with self.deadline.enforced():
            network, version = self.choose()
            await require_consents(self.services, network.manifest)
            operation = operation_of(self.options.question, network.manifest.explain_layer)
            await self._require_layer(network, version)
            self.services.dispatcher.require_room(QueueName(network.name, version, operation))
            uploads = await self._uploads(network)
            self._check_count(len(uploads))
            return await while_connected(self.request, self._answer(network, version, uploads))

    async def _check(self, network: ServedVersion, uploads: Sequence[Upload]) -> None:
        """Decode the images, which the job does again, so that nothing holds the pixels."""
        decoded = await self._decode(network, uploads)
        if len(decoded) == 1 and isinstance(decoded[0].image, OpsinError):
            raise decoded[0].image

    async def submit_job(self, key: str | None) -> Job:
        """A job that will compute the heatmaps. Images are decoded, and refused, before it is made.

        Args:
            key: The client's `Idempotency-Key`, if it sent one.

        Raises:
            OpsinError: As for `answer`, or the job is not accepted.
            ClientDisconnect: The client disconnected.
        """
        async with self.deadline.enforced():
            network, version = self.choose()
            await require_consents(self.services, network.manifest)
            await self._require_layer(network, version)
            client = quota_key(self.request.scope)
            await self.services.job_queue.require_room_unread("heatmap", key, client)
            uploads = await self._uploads(network)
            self._check_count(len(uploads), as_job=True)
            await while_connected(self.request, self._check(network, uploads))
            await require_still_usable(self.services, network.manifest)
            request = self._job_request(network, version, uploads)
            inputs = {
                input_file_name(index): upload.data
                for index, upload in enumerate(uploads)
                if isinstance(upload.data, bytes)
            }
            # The fingerprint uses the version as it was sent: a repeated request stays the same
            # when the champion has changed in between.
            sent = {"model": self.options.model, "version": self.options.version}
            params = json.dumps(request | sent, sort_keys=True)
            digest = await asyncio.to_thread(request_fingerprint, params, uploads) if key else ""
            return await self.services.job_queue.submit_work(
                "heatmap",
                request,
                inputs=inputs,
                idempotency=(key, digest) if key else None,
                client=client,
            )

    def choose(self) -> tuple[ServedVersion, int]:
        """The version that answers; refuses unknown classes before anything is uploaded."""
        options = self.options
        network, version = self.services.workers.choose(options.model, options.version, "heatmap")
        require_face_scope(self.request, network)
        count = network.manifest.classes or 0
        if unknown := [index for index in options.classes if index >= count]:
            raise ValidationFailed(
                f"'{network.name}' has {count} classes, 0 to {count - 1}; "
                f"class_index={unknown[0]} is not one of them."
            )
        return network, version

    async def compute(
        self, network: ServedVersion, version: int, uploads: Sequence[Upload]
    ) -> list[HeatmapOutcome]:
        """Each image with its heatmaps, one for each class."""
        decoded = await self._decode(network, uploads)
        classes = self.options.classes or (TOP_CLASS,)
        own_layer = network.manifest.explain_layer
        question = self.options.question.normalized(own_layer)
        items = [
            ExplainItem(upload.image.pixels, index)
            for upload in decoded
            if not isinstance(upload.image, OpsinError)
            for index in classes
        ]
        results = iter(
            await request_explanations(
                self.services,
                QueueName(network.name, version, operation_of(question, own_layer)),
                items,
                note=question.pack(),
                deadline=self.deadline,
                kept=sum(map(_kept_bytes, decoded)),
            )
        )
        return [
            HeatmapOutcome(upload, upload.image)
            if isinstance(upload.image, OpsinError)
            else HeatmapOutcome(upload, _all_or_error([next(results) for _ in classes]))
            for upload in decoded
        ]

    async def _uploads(self, network: ServedVersion) -> list[Upload]:
        uploads = await read_uploads(self.request, self.services.settings)
        return await with_portraits(self.services, network, uploads, self.deadline)

    async def _answer(
        self, network: ServedVersion, version: int, uploads: Sequence[Upload]
    ) -> Response:
        network, version, outcomes = await compute_with_retry(self, network, version, uploads)
        writer = HeatmapWriter(
            self.services, self.request, self.options, network, version, self.deadline
        )
        response = await writer.write(uploads, outcomes)
        await require_still_usable(self.services, network.manifest)
        return response

    def _job_request(
        self, network: ServedVersion, version: int, uploads: Sequence[Upload]
    ) -> dict[str, object]:
        return HeatmapJobRequest(
            model=network.name,
            version=version,
            question=self.options.question,
            classes=list(self.options.classes),
            resize=self.options.resize or default_resize(network),
            look=self.options.look,
            names=[upload.name for upload in uploads],
        ).model_dump(mode="json")

    async def _require_layer(self, network: ServedVersion, version: int) -> None:
        """Refuse a layer that does not exist or has no maps, before anything is uploaded."""
        if self.options.question.layer is not None:
            await self.services.layers.require(network.name, version, self.options.question.layer)

    def _check_count(self, images: int, *, as_job: bool = False) -> None:
        if self.options.media_type == PNG and images > 1 and not as_job:
            raise ValidationFailed(
                "A PNG shows one image. Send one at a time, or ask for numbers with "
                "Accept: application/json."
            )
        heatmaps = images * max(1, len(self.options.classes))
        maximum = self.services.settings.max_heatmaps
        if heatmaps > maximum:
            raise ValidationFailed(
                f"{heatmaps} heatmaps are more than the {maximum} that one request may ask for. "
                "Send fewer images or classes at a time."
            )

    async def _decode(
        self, network: ServedVersion, uploads: Sequence[Upload]
    ) -> list[DecodedUpload]:
        return await decode_uploads(
            self.services.decoder,
            uploads,
            network=network,
            resize=self.options.resize,
            deadline=self.deadline,
            keep_pixels=_MAX_KEPT_PIXELS if self.options.draws_on_image else 0,
        )


def _kept_bytes(upload: DecodedUpload) -> int:
    """Bytes of an image in full size, on which its heatmap is drawn; Pillow takes four a pixel."""
    full = None if isinstance(upload.image, OpsinError) else upload.image.full_size
    return 0 if full is None else 4 * full.width * full.height


def _all_or_error(
    results: Sequence[ExplainResult | OpsinError],
) -> list[ExplainResult] | OpsinError:
    """The results of one image, or the first error among them."""
    for result in results:
        if isinstance(result, OpsinError):
            return result
    return [result for result in results if isinstance(result, ExplainResult)]

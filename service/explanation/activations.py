"""Handles a request for feature maps, which is of one image and one layer."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from fastapi import Request
from fastapi.responses import Response

from contracts.errors import OpsinError, ValidationFailed
from contracts.inference.heatmap import ActivationsResponse
from contracts.inference.inference import Resize
from contracts.jobs import Job
from contracts.queue.explain_messages import ActivationsReply, ActivationsRequest
from contracts.queue.messages import TOP_CLASS
from contracts.queue.redis_keys import QueueName
from models.explain.activations_request import ActivationsJobRequest
from models.explain.heatmap_request import input_file_name
from models.explain.results import channels_of
from models.rendering.channels import channels_png
from models.rendering.colormaps import Colormap
from models.store.snapshot import ServedVersion
from service.auth.face_models import require_still_usable, require_usable
from service.auth.principal import principal_of, quota_key
from service.dependencies import Services
from service.explanation.client import ExplainItem, ExplainResult, request_explanations
from service.explanation.heatmap_response import PNG
from service.faces.portraits import with_portraits
from service.http.deadlines import Deadline
from service.http.disconnect import while_connected
from service.http.headers import MediaType
from service.http.server_timing import timing_of
from service.http.uploads import Upload, read_uploads, request_fingerprint
from service.inference.decoder import DecodedUpload, decode_uploads

MAX_NUMBERS = 500_000
"""In a JSON response: 5 MB, half a second to write. Averages would not be the layer's maps."""
MAX_DRAWN_NUMBERS = 4_000_000
"""In a PNG, or of a job: 64 maps of 224 x 224; 16 MB in the worker, in Redis and here."""


@dataclass(frozen=True, slots=True)
class ActivationsHandler:
    """Handles one request.

    Attributes:
        services: The application's services.
        request: The request, its body not yet read.
        question: The layer and channels.
        model: Its name; None for the first that is ready.
        version: A number or an alias; None for the champion.
        resize: How the image becomes the network's input; None for the version's own way.
        colormap: Of the PNG.
        media_type: JSON or PNG.
        deadline: When the request must be answered.
    """

    services: Services
    request: Request
    question: ActivationsRequest
    model: str | None
    version: str | None
    resize: Resize | None
    colormap: Colormap
    media_type: MediaType
    deadline: Deadline

    async def answer(self) -> Response:
        """The maps as JSON or as one PNG.

        Raises:
            OpsinError: The request cannot be answered.
            ClientDisconnect: The client disconnected; its queued image is withdrawn.
        """
        async with self.deadline.enforced():
            network, version = self.services.workers.choose(self.model, self.version, "explain")
            await require_usable(self.services, principal_of(self.request), network.manifest)
            await self._require_layer(network, version)
            self.services.dispatcher.require_room(QueueName(network.name, version, "explain"))
            upload = await self._upload(network)
            work = self._answer(network, version, upload)
            return await while_connected(self.request, work)

    async def submit_job(self, key: str | None) -> Job:
        """A job that will compute the maps. The image is decoded, and refused, before it is made.

        Args:
            key: The client's `Idempotency-Key`, if it sent one.

        Raises:
            OpsinError: As for `answer`, or the job is not accepted.
            ClientDisconnect: The client disconnected.
        """
        async with self.deadline.enforced():
            network, version = self.services.workers.choose(self.model, self.version, "explain")
            await require_usable(self.services, principal_of(self.request), network.manifest)
            await self._require_layer(network, version, as_job=True)
            client = quota_key(self.request.scope)
            await self.services.job_queue.require_room_unread("activations", key, client)
            upload = await self._upload(network)
            await while_connected(self.request, self._decode(network, upload))
            await require_still_usable(self.services, network.manifest)
            request = ActivationsJobRequest(
                model=network.name,
                version=version,
                question=self.question,
                colormap=self.colormap,
                resize=self.resize,
            ).model_dump(mode="json")
            if self.resize is None:
                del request["resize"]  # a key of the release before stays the same
            # As it was sent: a repeated request stays the same when the champion has changed.
            sent = request | {"model": self.model, "version": self.version}
            params = json.dumps(sent, sort_keys=True)
            digest = await asyncio.to_thread(request_fingerprint, params, [upload]) if key else ""
            data = upload.data if isinstance(upload.data, bytes) else b""
            return await self.services.job_queue.submit_work(
                "activations",
                request,
                inputs={input_file_name(0): data},
                idempotency=(key, digest) if key else None,
                client=client,
            )

    async def _require_layer(
        self, network: ServedVersion, version: int, *, as_job: bool = False
    ) -> None:
        """Refuse an unknown layer, and a response with too many numbers."""
        name = self.question.layer or network.manifest.explain_layer
        layer = await self.services.layers.require(network.name, version, name)
        if layer is not None:
            rows, columns, total = (side or 1 for side in layer.output_shape)
            channels = min(self.question.channels, total)
            self._check_size(channels, rows, columns, as_job=as_job)

    def _check_size(self, channels: int, rows: int, columns: int, *, as_job: bool = False) -> None:
        is_drawn = as_job or self.media_type == PNG
        most = MAX_DRAWN_NUMBERS if is_drawn else MAX_NUMBERS
        if channels * rows * columns <= most:
            return
        fitting = most // (rows * columns)
        advice = f"Ask for channels={fitting} or less" if fitting else "Use another layer"
        advice += "." if is_drawn else ", or for a PNG with Accept: image/png."
        raise ValidationFailed(
            f"{channels} maps of {rows} x {columns} are more than {most} numbers. {advice}"
        )

    async def _upload(self, network: ServedVersion) -> Upload:
        upload = _only(await read_uploads(self.request, self.services.settings))
        (upload,) = await with_portraits(self.services, network, [upload], self.deadline)
        return upload

    async def _answer(self, network: ServedVersion, version: int, upload: Upload) -> Response:
        decoded = await self._decode(network, upload)
        assert not isinstance(decoded.image, OpsinError)  # noqa: S101 - narrows the type
        (result,) = await request_explanations(
            self.services,
            QueueName(network.name, version, "explain"),
            [ExplainItem(decoded.image.pixels, TOP_CLASS)],
            note=self.question.pack(),
            deadline=self.deadline,
        )
        if isinstance(result, OpsinError):
            raise result
        reply = ActivationsReply.model_validate_json(result.note)
        self._check_size(len(reply.channels), *reply.shape)
        work = (
            partial(self._png, network, version, result, reply)
            if self.media_type == PNG
            else partial(self._json, network, version, decoded, result, reply)
        )
        # Up to some megabytes of numbers: too much for the event loop in either format.
        client, size = quota_key(self.request.scope), result.vector.nbytes
        with self.services.dispatcher.waiting.held(client, size):
            body = await self.services.renderer.run(work, deadline_seconds=self.deadline.remaining)
        await require_still_usable(self.services, network.manifest)
        headers = {"X-Cache": "hit" if result.cached else "miss", "Vary": "Accept"}
        return Response(body, media_type=self.media_type, headers=headers)

    async def _decode(self, network: ServedVersion, upload: Upload) -> DecodedUpload:
        (decoded,) = await decode_uploads(
            self.services.decoder,
            [upload],
            network=network,
            resize=self.resize,
            deadline=self.deadline,
        )
        if isinstance(decoded.image, OpsinError):
            raise decoded.image
        return decoded

    def _png(
        self, network: ServedVersion, version: int, result: ExplainResult, reply: ActivationsReply
    ) -> bytes:
        shown = f"{len(reply.channels)} of {reply.total} channels"
        title = f"{network.name} version {version}, {reply.layer}: {shown}"
        return channels_png(result.vector, reply, self.colormap, title)

    def _json(
        self,
        network: ServedVersion,
        version: int,
        decoded: DecodedUpload,
        result: ExplainResult,
        reply: ActivationsReply,
    ) -> bytes:
        response = ActivationsResponse(
            model=network.name,
            version=version,
            layer=reply.layer,
            channels=reply.total,
            shape=list(reply.shape),
            maps=channels_of(result.vector, reply),
            timing_ms=timing_of(self.request, [decoded], [result]),
        )
        return response.model_dump_json().encode()


def _only(uploads: Sequence[Upload]) -> Upload:
    if len(uploads) > 1:
        raise ValidationFailed("Feature maps are of one image. Send one at a time.")
    return uploads[0]

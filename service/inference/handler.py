"""Handles a request for classification or embedding: choose a version, read, decode, run, assemble.

An error of one of several images becomes that image's result; an error of the only image is the
response.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Protocol, TypeVar

from fastapi import Request

from contracts.errors import ModelNotReady, OpsinError
from contracts.inference.inference import (
    InferenceResponse,
    ItemError,
    ItemResult,
    Resize,
    VectorOperation,
)
from contracts.jobs import Job
from contracts.queue.messages import Reply
from contracts.queue.redis_keys import QueueName
from models.faces.provenance import takes_portraits
from models.images.resize import preparation
from models.serving.outputs import OutputReader, vector_of
from models.store.snapshot import ServedVersion
from service.auth.face_models import require_consents, require_face_scope, require_still_usable
from service.auth.principal import quota_key
from service.dependencies import Services
from service.faces.portraits import with_portraits
from service.http.deadlines import Deadline
from service.http.disconnect import while_connected
from service.http.server_timing import timing_of
from service.http.uploads import Upload, read_uploads, request_fingerprint
from service.inference.decoder import DecodedUpload, decode_uploads
from service.jobs.queue import JobItem
from service.threads import run_by_size

_EMBEDDING_VALUES = 512


class ImageOutcome(Protocol):
    """What became of one image."""

    @property
    def error(self) -> OpsinError | None: ...


OutcomeT = TypeVar("OutcomeT", bound=ImageOutcome)


class ImageRequest(Protocol[OutcomeT]):
    """A request that a version computes from images."""

    @property
    def services(self) -> Services: ...

    def choose(self) -> tuple[ServedVersion, int]: ...

    async def compute(
        self, network: ServedVersion, version: int, uploads: Sequence[Upload]
    ) -> list[OutcomeT]: ...


async def compute_with_retry(
    request: ImageRequest[OutcomeT],
    network: ServedVersion,
    version: int,
    uploads: Sequence[Upload],
) -> tuple[ServedVersion, int, list[OutcomeT]]:
    """Compute a request; if its version is unloaded meanwhile, again with the one that replaced it.

    Args:
        request: The request.
        network: The version that was chosen for it.
        version: Its number.
        uploads: The images, which are decoded again for another version that takes such images.

    Returns:
        The version that answered, its number and one outcome for each image.
    """
    while True:
        outcomes = await request.compute(network, version, uploads)
        if not any(isinstance(outcome.error, ModelNotReady) for outcome in outcomes):
            return network, version, outcomes
        other, current = request.choose()
        if current == version:
            return network, version, outcomes
        await require_consents(request.services, other.manifest)
        if takes_portraits(other.manifest) != takes_portraits(network.manifest):
            return network, version, outcomes  # the uploads are faces, or may show several
        network, version = other, current


@dataclass(frozen=True, slots=True)
class InferenceParams:
    """The parameters of a request. All of them are part of its fingerprint.

    Attributes:
        operation: `classify` or `embed`.
        model: Its name; None for the first that is ready.
        version: A number or an alias; None for the champion.
        resize: How an image becomes the network's input; None for the version's own way.
        top_k: The number of classes to return; unused by an embedding.
    """

    operation: VectorOperation
    model: str | None
    version: str | None
    resize: Resize | None
    top_k: int = 0

    def values_of(self, images: int) -> int:
        """About how many values the results of so many images have."""
        return images * (self.top_k or _EMBEDDING_VALUES)


@dataclass(frozen=True, slots=True)
class VectorOutcome:
    """One image and the network's reply, or its error."""

    decoded: DecodedUpload
    reply: Reply | OpsinError

    @property
    def error(self) -> OpsinError | None:
        return self.reply if isinstance(self.reply, OpsinError) else None


@dataclass(frozen=True, slots=True)
class InferenceHandler:
    """Handles one request.

    Attributes:
        services: The application's services.
        request: The request, its body not yet read.
        params: Its parameters.
        deadline: When it must be answered.
    """

    services: Services
    request: Request
    params: InferenceParams
    deadline: Deadline

    async def answer(self) -> InferenceResponse:
        """The results for all images of the request.

        Raises:
            OpsinError: The request as a whole cannot be answered, or its only image cannot.
            ClientDisconnect: The client disconnected; its queued images are withdrawn.
        """
        async with self.deadline.enforced():
            network, version = self.choose()
            await require_consents(self.services, network.manifest)
            queue = QueueName(network.name, version, self.params.operation)
            self.services.dispatcher.require_room(queue, self.deadline.at)
            self.services.decoder.require_room()
            uploads = await self._uploads(network)
            return await while_connected(self.request, self._answer(network, version, uploads))

    async def submit_job(self, key: str | None) -> Job:
        """A job that will hold the results. Images are decoded, and refused, before it is made.

        Args:
            key: The client's `Idempotency-Key`, if it sent one.

        Raises:
            OpsinError: As for `answer`, or the job is not accepted.
            ClientDisconnect: The client disconnected.
        """
        async with self.deadline.enforced():
            network, version = self.choose()
            await require_consents(self.services, network.manifest)
            client = quota_key(self.request.scope)
            await self.services.job_queue.require_room_unread(self.params.operation, key, client)
            uploads = await self._uploads(network)
            height, width = network.input_size
            pixels = self.services.job_queue.pixels
            # Of hundreds of requests, most wait for the database with all their images decoded.
            with ExitStack() as held:
                held.enter_context(pixels.held(client, len(uploads) * height * width * 3))
                job = self._store(network, version, uploads, key, client=client, held=held)
                return await while_connected(self.request, job)

    async def _store(
        self,
        network: ServedVersion,
        version: int,
        uploads: Sequence[Upload],
        key: str | None,
        *,
        client: str,
        held: ExitStack,
    ) -> Job:
        decoded = await self.decode(network, uploads)
        await require_still_usable(self.services, network.manifest)
        params = repr(sorted(asdict(self.params).items()))
        digest = await asyncio.to_thread(request_fingerprint, params, uploads) if key else ""
        return await self.services.job_queue.submit(
            self.params.operation,
            network.name,
            version,
            request={
                "resize": self.params.resize,
                "top_k": self.params.top_k,
                "asked": self.params.version,
                "input_size": network.input_size,  # for workers of the release before
                "prepared": preparation(network, self.params.resize),
            },
            items=[_job_item(upload) for upload in decoded],
            idempotency=(key, digest) if key else None,
            client=client,
            held=held,
        )

    def choose(self) -> tuple[ServedVersion, int]:
        """The version that answers, checked before anything is uploaded."""
        params = self.params
        network, version = self.services.workers.choose(
            params.model, params.version, params.operation
        )
        require_face_scope(self.request, network)
        return network, version

    async def compute(
        self, network: ServedVersion, version: int, uploads: Sequence[Upload]
    ) -> list[VectorOutcome]:
        """The replies of one version, in order.

        Raises:
            OpsinError: The only image cannot be decoded, or the request failed as a whole.
        """
        queue = QueueName(network.name, version, self.params.operation)
        dispatcher, deadline = self.services.dispatcher, self.deadline.at
        replies: Sequence[Reply | OpsinError] = []
        with dispatcher.place(queue, len(uploads), deadline) as place:
            # An image that waits for one of the few places for large ones would keep others out.
            decoded = await self.decode(network, uploads, when_slow=place.give_back)
            pixels = [
                upload.image.pixels
                for upload in decoded
                if not isinstance(upload.image, OpsinError)
            ]
            if pixels:
                replies = await dispatcher.run(queue, pixels, deadline=deadline, place=place)
        remaining = iter(replies)
        return [
            VectorOutcome(
                upload, upload.image if isinstance(upload.image, OpsinError) else next(remaining)
            )
            for upload in decoded
        ]

    async def _uploads(self, network: ServedVersion) -> list[Upload]:
        uploads = await read_uploads(self.request, self.services.settings)
        return await with_portraits(self.services, network, uploads, self.deadline)

    async def _answer(
        self, network: ServedVersion, version: int, uploads: Sequence[Upload]
    ) -> InferenceResponse:
        network, version, outcomes = await compute_with_retry(self, network, version, uploads)
        response = await self.response_of(network, version, outcomes)
        await require_still_usable(self.services, network.manifest)
        return response

    async def response_of(
        self, network: ServedVersion, version: int, outcomes: Sequence[VectorOutcome]
    ) -> InferenceResponse:
        """The response from what became of each image.

        Raises:
            OpsinError: The only image has no result.
        """
        values = self.params.values_of(len(outcomes))
        return await run_by_size(values, self._response, network, version, outcomes)

    def _response(
        self, network: ServedVersion, version: int, outcomes: Sequence[VectorOutcome]
    ) -> InferenceResponse:
        replies = [outcome.reply for outcome in outcomes if isinstance(outcome.reply, Reply)]
        return InferenceResponse(
            model=network.name,
            version=version,
            batch_size=max((reply.batch_size for reply in replies), default=0),
            results=self._results(network, outcomes),
            timing_ms=timing_of(self.request, [outcome.decoded for outcome in outcomes], replies),
        )

    async def decode(
        self,
        network: ServedVersion,
        uploads: Sequence[Upload],
        *,
        when_slow: Callable[[], None] = lambda: None,
    ) -> list[DecodedUpload]:
        """All images, in order.

        Args:
            network: Whose input they become.
            uploads: The images.
            when_slow: See `service.inference.decoder.Decoder.decode`.

        Raises:
            OpsinError: The only image cannot be decoded, or the decoder failed the request.
        """
        decoded = await decode_uploads(
            self.services.decoder,
            uploads,
            network=network,
            resize=self.params.resize,
            deadline=self.deadline,
            when_slow=when_slow,
        )
        if len(decoded) == 1 and isinstance(decoded[0].image, OpsinError):
            raise decoded[0].image
        return decoded

    def _results(
        self, network: ServedVersion, outcomes: Sequence[VectorOutcome]
    ) -> list[ItemResult]:
        """One result for each image.

        Raises:
            OpsinError: The only image has none.
        """
        reader = OutputReader(self.params.operation, self.params.top_k, network.labels)
        results = []
        for outcome in outcomes:
            try:
                results.append(_result(outcome, reader))
            except OpsinError as error:
                if len(outcomes) == 1:
                    raise
                item_error = ItemError(code=error.code, detail=error.detail)
                results.append(ItemResult(name=outcome.decoded.name, error=item_error))
        return results


def _result(outcome: VectorOutcome, reader: OutputReader) -> ItemResult:
    image = outcome.decoded.image
    if isinstance(image, OpsinError):
        raise image
    output = reader.read(vector_of(outcome.reply))
    return ItemResult(
        name=outcome.decoded.name,
        width=image.width,
        height=image.height,
        predictions=output.predictions,
        embedding=output.embedding,
    )


def _job_item(upload: DecodedUpload) -> JobItem:
    if isinstance(upload.image, OpsinError):
        error = ItemError(code=upload.image.code, detail=upload.image.detail)
        return JobItem(upload.name, None, None, error)
    return JobItem(upload.name, upload.image.width, upload.image.height, upload.image.pixels)

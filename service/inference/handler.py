"""The way of a request through the service: choose, read, decode, run, assemble.

Several images share one request but not one fate: what is wrong with one becomes its own result.
What is wrong with a lone image is the answer.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from fastapi import Request

from contracts.errors import ModelNotReady, OpsinError
from contracts.inference.inference import (
    InferenceResponse,
    ItemError,
    ItemResult,
    Operation,
    Resize,
)
from contracts.jobs import Job
from contracts.queue.messages import Reply
from models.images.decode import Picture
from models.serving.outputs import Output, Outputs, vector_of
from models.store.snapshot import Served
from service.dependencies import Services
from service.http.deadlines import Deadline
from service.http.disconnect import while_connected
from service.http.idempotency import digest_of
from service.http.server_timing import timing_of
from service.http.uploads import Upload, read_uploads
from service.inference.decoder import Decoded, decode_uploads
from service.jobs.queue import JobItem


@dataclass(frozen=True, slots=True)
class Ask:
    """What a client wants to know of its images.

    Attributes:
        operation: What is to be done.
        model: By name; None for the first that is ready.
        version: A number or an alias; None for the champion.
        resize: How an image becomes the network's input.
        top_k: Classes to tell, at most; of no meaning to an embedding.
    """

    operation: Operation
    model: str | None
    version: str | None
    resize: Resize
    top_k: int = 0


@dataclass(frozen=True, slots=True)
class Inference:
    """One request under way.

    Attributes:
        services: What does the work.
        request: The request, its body unread.
        ask: What it asks for.
        deadline: When it must be answered.
    """

    services: Services
    request: Request
    ask: Ask
    deadline: Deadline

    async def answer(self) -> InferenceResponse:
        """The results for all images of the request.

        Raises:
            OpsinError: The request as a whole cannot be answered, or its only image cannot.
            ClientDisconnect: The client hung up; its queued work is withdrawn.
        """
        async with self.deadline.enforced():
            network, version = self._choose()
            self.services.dispatch.require_room(
                network.name, version, self.ask.operation, self.deadline.at
            )
            uploads = await read_uploads(self.request, self.services.settings)
            work = self._decode_and_run(network, version, uploads)
            return await while_connected(self.request, work)

    async def job(self, key: str | None) -> Job:
        """A job that will hold the results; images are decoded, and refused, before it is made.

        Args:
            key: The client's `Idempotency-Key`, if it sent one.

        Raises:
            OpsinError: As `answer`, or the job is not accepted.
            ClientDisconnect: The client hung up.
        """
        async with self.deadline.enforced():
            network, version = self._choose()
            uploads = await read_uploads(self.request, self.services.settings)
            decoded = await while_connected(self.request, self._decode(network, uploads))
            said = repr(sorted(asdict(self.ask).items()))
            digest = await asyncio.to_thread(digest_of, said, uploads) if key else ""
            return await self.services.queue.submit(
                self.ask.operation,
                network.name,
                version,
                request={
                    "resize": self.ask.resize,
                    "top_k": self.ask.top_k,
                    "asked": self.ask.version,
                    "input_size": network.input_size,
                },
                items=[_job_item(one) for one in decoded],
                idempotency=(key, digest) if key else None,
            )

    def _choose(self) -> tuple[Served, int]:
        """First of all, so that nobody uploads to a model that is not there."""
        ask = self.ask
        return self.services.presence.choose(ask.model, ask.version, ask.operation)

    async def _decode_and_run(
        self, network: Served, version: int, uploads: Sequence[Upload]
    ) -> InferenceResponse:
        decoded = await self._decode(network, uploads)
        replies = await self._run(network, version, decoded)
        if any(isinstance(reply, ModelNotReady) for reply in replies):
            # The version was taken out of service while these waited: ask the one that followed.
            network, following = self._choose()
            if following != version:
                return await self._decode_and_run(network, following, uploads)
        answered = [reply for reply in replies if isinstance(reply, Reply)]
        return InferenceResponse(
            model=network.name,
            version=version,
            batch_size=max((reply.batch_size for reply in answered), default=0),
            results=self._results(network, decoded, replies),
            timing_ms=timing_of(self.request, decoded, answered),
        )

    async def _decode(self, network: Served, uploads: Sequence[Upload]) -> list[Decoded]:
        """All of them, in order.

        Raises:
            OpsinError: The only image cannot be decoded, or the decoder failed the request.
        """
        decoded = await decode_uploads(
            self.services.decoder,
            uploads,
            network=network,
            resize=self.ask.resize,
            deadline=self.deadline,
        )
        if len(decoded) == 1 and isinstance(decoded[0].picture, OpsinError):
            raise decoded[0].picture
        return decoded

    async def _run(
        self, network: Served, version: int, decoded: Sequence[Decoded]
    ) -> Sequence[Reply | OpsinError]:
        """The replies for the images that could be decoded, in order."""
        pixels = [one.picture.pixels for one in decoded if not isinstance(one.picture, OpsinError)]
        if not pixels:
            return []
        return await self.services.dispatch.run(
            network.name, version, self.ask.operation, pixels, deadline=self.deadline.at
        )

    def _results(
        self, network: Served, decoded: Sequence[Decoded], replies: Sequence[Reply | OpsinError]
    ) -> list[ItemResult]:
        """One result an image, in the order they were sent.

        Raises:
            OpsinError: The only image has none.
        """
        outputs = Outputs(self.ask.operation, self.ask.top_k, network.labels)
        answers = iter(replies)
        results = []
        for one in decoded:
            if isinstance(one.picture, OpsinError):
                results.append(_error_result(one, one.picture))
                continue
            try:
                results.append(_result(one, one.picture, outputs.of(vector_of(next(answers)))))
            except OpsinError as error:
                if len(decoded) == 1:
                    raise
                results.append(_error_result(one, error))
        return results


def _result(one: Decoded, picture: Picture, output: Output) -> ItemResult:
    return ItemResult(
        name=one.name,
        width=picture.width,
        height=picture.height,
        predictions=output.predictions,
        embedding=output.embedding,
    )


def _error_result(one: Decoded, error: OpsinError) -> ItemResult:
    return ItemResult(name=one.name, error=ItemError(code=error.code, detail=error.detail))


def _job_item(one: Decoded) -> JobItem:
    if isinstance(one.picture, OpsinError):
        error = ItemError(code=one.picture.code, detail=one.picture.detail)
        return JobItem(one.name, None, None, error)
    return JobItem(one.name, one.picture.width, one.picture.height, one.picture.pixels)

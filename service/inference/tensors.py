"""Inference for the standard protocols: a batch of ready pixels in, the network's numbers out.

They share the lanes, deadlines and refusals of `service.inference.handler`; what differs is that a
request succeeds or fails as a whole, since their answers have no place for one image's own error.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fastapi import Request

from contracts.errors import OpsinError, PayloadTooLarge, UnsupportedMediaType
from contracts.inference.inference import Operation
from contracts.queue.messages import Pixels, Reply
from models.serving.outputs import Matrix, matrix_of
from models.store.snapshot import Served
from service.dependencies import Services
from service.http.body import read_body
from service.http.deadlines import Deadline
from service.http.disconnect import while_connected
from service.http.uploads import Upload, body_limit
from service.inference.decoder import decode_uploads
from service.protocols import oip, tfserving
from service.protocols.signature import Signature, signature_of


@dataclass(frozen=True, slots=True)
class Named:
    """What the address says: a model, and maybe a version's number or alias."""

    model: str
    version: str | None


@dataclass(frozen=True, slots=True)
class TensorInference:
    """One request under way.

    Attributes:
        services: What does the work.
        request: The request, its body unread.
        named: The model it is for.
        deadline: When it must be answered.
    """

    services: Services
    request: Request
    named: Named
    deadline: Deadline

    async def infer(self, json_length: str | None) -> oip.Packed:
        """Answer in the Open Inference Protocol.

        Args:
            json_length: The header `Inference-Header-Content-Length`, if it was sent.

        Raises:
            OpsinError: The request cannot be answered.
            ClientDisconnect: The client hung up; its queued work is withdrawn.
        """
        async with self.deadline.enforced():
            signature = self._signature(self._admit())
            body = await self._body(oip.most_bytes(signature))
            work = self._infer(body, json_length, signature)
            return await while_connected(self.request, work)

    async def predict(self) -> bytes:
        """Answer as TensorFlow Serving does, in JSON.

        Raises:
            OpsinError: As `infer`.
            ClientDisconnect: As `infer`.
        """
        async with self.deadline.enforced():
            network = self._admit()
            body = await self._body(body_limit(self.services.settings))
            return await while_connected(self.request, self._predict(body, network))

    def _admit(self) -> Served:
        """Refuse before anything is read where nothing could be answered.

        Which operation is wanted, the body will say; here one that could be done is enough.
        """
        refused: list[OpsinError] = []
        operations: tuple[Operation, ...] = ("classify", "embed")
        for operation in operations:
            try:
                return self._choose(operation)[0]
            except OpsinError as error:
                refused.append(error)
        raise refused[0]

    def _choose(self, operation: Operation) -> tuple[Served, int]:
        named = self.named
        network, version = self.services.presence.choose(named.model, named.version, operation)
        self.services.dispatch.require_room(network.name, version, operation, self.deadline.at)
        return network, version

    def _signature(self, network: Served) -> Signature:
        return signature_of(network, self.services.settings.max_images)

    async def _body(self, limit: int) -> bytes:
        if self.request.headers.get("Content-Encoding", "identity") != "identity":
            raise UnsupportedMediaType("Send the body uncompressed, without Content-Encoding.")
        refusal = PayloadTooLarge(
            f"A request to '{self.named.model[:64]}' may have {limit} bytes. Send fewer images, "
            "or the same ones more compactly."
        )
        return await read_body(self.request, limit, refusal)

    async def _infer(
        self, body: bytes, json_length: str | None, signature: Signature
    ) -> oip.Packed:
        decoder = self.services.decoder
        ask = await decoder.run(
            lambda: oip.read_infer(body, json_length, signature),
            deadline_seconds=self.deadline.remaining,
        )
        arrived = self.request.state.arrived
        bounded = replace(self, deadline=self.deadline.within(ask.timeout, since=arrived))
        async with bounded.deadline.enforced():
            wanted = [output.operation for output in ask.outputs]
            version, found = await bounded.run(wanted, list(ask.pixels))
            names = [output.name for output in ask.outputs]
            tensors = dict(zip(names, found, strict=True))
            return await decoder.run(
                lambda: oip.pack(ask, self.named.model, version, tensors),
                deadline_seconds=bounded.deadline.remaining,
            )

    async def _predict(self, body: bytes, network: Served) -> bytes:
        decoder, most = self.services.decoder, self.services.settings.max_image_bytes
        signature = self._signature(network)
        ask = await decoder.run(
            lambda: tfserving.read_predict(body, signature, most),
            deadline_seconds=self.deadline.remaining,
        )
        pixels = await self._decode(ask.images, network)
        _, (rows,) = await self.run([ask.operation], pixels)
        return await decoder.run(
            lambda: tfserving.answer(ask, rows), deadline_seconds=self.deadline.remaining
        )

    async def _decode(self, images: Sequence[tfserving.Image], network: Served) -> list[Pixels]:
        """The pixels of all images; those that are pixels already stay as they are.

        Raises:
            OpsinError: One of them cannot be decoded; the message says which.
        """
        pixels: dict[int, Pixels] = {}
        encoded: dict[int, Upload] = {}
        for at, image in enumerate(images):
            if isinstance(image, bytes | OpsinError):
                encoded[at] = Upload(None, image)
            else:
                pixels[at] = image
        decoded = await decode_uploads(
            self.services.decoder,
            list(encoded.values()),
            network=network,
            resize="crop",
            deadline=self.deadline,
        )
        for at, one in zip(encoded, decoded, strict=True):
            if isinstance(one.picture, OpsinError):
                raise _of_image(at, one.picture)
            pixels[at] = one.picture.pixels
        return [pixels[at] for at in range(len(images))]

    async def run(
        self, operations: Sequence[Operation], pixels: Sequence[Pixels]
    ) -> tuple[int, list[Matrix]]:
        """The version that answered, and for each operation (n, k) float32.

        Raises:
            OpsinError: One operation, or one image of it, failed.
        """
        network, version = self._choose(operations[0])
        for operation in operations[1:]:
            self.services.presence.choose(network.name, str(version), operation)
        tasks = [
            asyncio.ensure_future(self._dispatch(network, version, operation, pixels))
            for operation in operations
        ]
        try:
            return version, [matrix_of(replies) for replies in await asyncio.gather(*tasks)]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _dispatch(
        self, network: Served, version: int, operation: Operation, pixels: Sequence[Pixels]
    ) -> Sequence[Reply | OpsinError]:
        return await self.services.dispatch.run(
            network.name, version, operation, pixels, deadline=self.deadline.at
        )


def _of_image(at: int, error: OpsinError) -> OpsinError:
    """The same error, saying which of the images it is about."""
    return type(error)(f"Image {at}: {error.detail}", retry_after=error.retry_after)

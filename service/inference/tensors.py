"""Inference for the standard protocols: a batch of pixels in, the network's numbers out.

Queues, deadlines and errors are those of `service.inference.handler`. The difference is that a
request succeeds or fails as a whole, because these protocols have no field for one image's error.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fastapi import Request

from contracts.errors import ModelNotReady, OpsinError, PayloadTooLarge
from contracts.inference.inference import VectorOperation
from contracts.queue.messages import Pixels, Reply
from contracts.queue.redis_keys import QueueName
from contracts.tracing.spans import span
from models.faces.provenance import takes_portraits
from models.images.resize import preparation
from models.serving.outputs import Matrix, matrix_of
from models.store.snapshot import ServedVersion
from service.auth.face_models import require_consents, require_face_scope, require_still_usable
from service.dependencies import Services
from service.faces.portraits import with_portraits
from service.http.body import max_request_bytes, read_body
from service.http.deadlines import Deadline
from service.http.disconnect import while_connected
from service.http.uploads import Upload
from service.inference.decoder import decode_uploads
from service.protocols import oip, tfserving
from service.protocols.availability import choose_any
from service.protocols.tensor_spec import OPERATIONS, TensorSpec, outputs_of, tensor_spec


@dataclass(frozen=True, slots=True)
class ModelRef:
    """The model in a URL path, and the version's number or alias if there is one."""

    model: str
    version: str | None


@dataclass(frozen=True, slots=True)
class TensorInference:
    """Handles one request.

    Attributes:
        services: The application's services.
        request: The request, its body not yet read.
        model_ref: The model it is for.
        deadline: When it must be answered.
    """

    services: Services
    request: Request
    model_ref: ModelRef
    deadline: Deadline

    async def infer(self, json_length: str | None) -> oip.EncodedResponse:
        """Answer in the Open Inference Protocol.

        Args:
            json_length: The header `Inference-Header-Content-Length`, if it was sent.

        Raises:
            OpsinError: The request cannot be answered.
            ClientDisconnect: The client disconnected; its queued images are withdrawn.
        """
        async with self.deadline.enforced():
            network = self._choose_any()
            await require_consents(self.services, network.manifest)
            spec = self._spec(network)
            body = await self._body(oip.max_body_bytes(spec))
            work = self._infer(body, json_length, spec, network)
            return await while_connected(self.request, work)

    async def predict(self) -> bytes:
        """Answer in TensorFlow Serving's JSON.

        Raises:
            OpsinError: As for `infer`.
            ClientDisconnect: As for `infer`.
        """
        async with self.deadline.enforced():
            network = self._choose_any()
            await require_consents(self.services, network.manifest)
            body = await self._body(max_request_bytes(self.services.settings))
            return await while_connected(self.request, self._predict(body, network))

    def _choose_any(self) -> ServedVersion:
        """Refuse before anything is read if no operation is possible.

        The body names the operation; here it is enough that one of them is possible.
        """
        ref = self.model_ref
        network, version = choose_any(self.services.workers, ref.model, ref.version)
        (operation, *_) = [OPERATIONS[name] for name in outputs_of(network.manifest)]
        self._require_room(network, version, operation)
        return network

    def _choose(self, operation: VectorOperation) -> tuple[ServedVersion, int]:
        ref = self.model_ref
        network, version = self.services.workers.choose(ref.model, ref.version, operation)
        self._require_room(network, version, operation)
        return network, version

    def _require_room(
        self, network: ServedVersion, version: int, operation: VectorOperation
    ) -> None:
        require_face_scope(self.request, network)
        queue = QueueName(network.name, version, operation)
        self.services.dispatcher.require_room(queue, self.deadline.at)

    def _spec(self, network: ServedVersion) -> TensorSpec:
        spec = tensor_spec(network, self.services.settings.max_images)
        return replace(spec, outputs=outputs_of(network.manifest))

    async def _body(self, limit: int) -> bytes:
        too_large = PayloadTooLarge(
            f"A request to '{self.model_ref.model[:64]}' may have {limit} bytes. Send fewer "
            "images, or the same ones more compactly."
        )
        return await read_body(self.request, limit, too_large)

    async def _infer(
        self, body: bytes, json_length: str | None, spec: TensorSpec, network: ServedVersion
    ) -> oip.EncodedResponse:
        decoder = self.services.decoder
        with span("decode"):
            parsed = await decoder.run(
                lambda: oip.parse_infer(body, json_length, spec),
                deadline_seconds=self.deadline.remaining,
            )
        arrived = self.request.state.arrived
        bounded = replace(self, deadline=self.deadline.within(parsed.timeout, since=arrived))
        async with bounded.deadline.enforced():
            operations = [output.operation for output in parsed.outputs]
            network, version, matrices = await bounded.run(operations, list(parsed.pixels), network)
            names = [output.name for output in parsed.outputs]
            tensors = dict(zip(names, matrices, strict=True))
            labels = [label.text for label in network.labels]
            encoded = await decoder.run(
                lambda: oip.encode_response(parsed, network.name, version, tensors, labels),
                deadline_seconds=bounded.deadline.remaining,
            )
            await require_still_usable(self.services, network.manifest)
            return encoded

    async def _predict(self, body: bytes, network: ServedVersion) -> bytes:
        decoder, max_bytes = self.services.decoder, self.services.settings.max_image_bytes
        spec = self._spec(network)
        parsed = await decoder.run(
            lambda: tfserving.parse_predict(body, spec, max_bytes),
            deadline_seconds=self.deadline.remaining,
        )
        pixels = await self._decode(parsed.images, network)
        decoded = any(isinstance(image, bytes) for image in parsed.images)
        network, _, (rows,) = await self.run([parsed.operation], pixels, network, decoded=decoded)
        encoded = await decoder.run(
            lambda: tfserving.encode_response(parsed, rows),
            deadline_seconds=self.deadline.remaining,
        )
        await require_still_usable(self.services, network.manifest)
        return encoded

    async def _decode(
        self, images: Sequence[tfserving.Image], network: ServedVersion
    ) -> list[Pixels]:
        """The pixels of all images; encoded ones are decoded.

        Raises:
            OpsinError: An image cannot be decoded; the message says which.
        """
        pixels: dict[int, Pixels] = {}
        encoded: dict[int, Upload] = {}
        for index, image in enumerate(images):
            if isinstance(image, bytes | OpsinError):
                encoded[index] = Upload(None, image)
            else:
                pixels[index] = image
        decoded = await decode_uploads(
            self.services.decoder,
            await with_portraits(self.services, network, list(encoded.values()), self.deadline),
            network=network,
            resize=None,
            deadline=self.deadline,
        )
        for index, upload in zip(encoded, decoded, strict=True):
            if isinstance(upload.image, OpsinError):
                raise _with_index(index, upload.image)
            pixels[index] = upload.image.pixels
        return [pixels[index] for index in range(len(images))]

    async def run(
        self,
        operations: Sequence[VectorOperation],
        pixels: Sequence[Pixels],
        prepared_for: ServedVersion,
        *,
        decoded: bool = False,
    ) -> tuple[ServedVersion, int, list[Matrix]]:
        """The version that answered, its number, and for each operation (n, k) float32.

        Args:
            operations: What to compute.
            pixels: The images.
            prepared_for: The version that they were read for; another one may answer by now.
            decoded: Whether some of them were resized for it here.

        Raises:
            OpsinError: One operation, or one image of it, failed.
        """
        network, version = self._choose(operations[0])
        await require_consents(self.services, network.manifest)
        _require_same_input(prepared_for, network, decoded=decoded)
        for operation in operations[1:]:
            self.services.workers.choose(network.name, str(version), operation)
        tasks = [
            asyncio.ensure_future(self._dispatch(network, version, operation, pixels))
            for operation in operations
        ]
        try:
            replies = await asyncio.gather(*tasks)
            return network, version, [matrix_of(own) for own in replies]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _dispatch(
        self,
        network: ServedVersion,
        version: int,
        operation: VectorOperation,
        pixels: Sequence[Pixels],
    ) -> Sequence[Reply | OpsinError]:
        queue = QueueName(network.name, version, operation)
        return await self.services.dispatcher.run(queue, pixels, deadline=self.deadline.at)


def _require_same_input(before: ServedVersion, now: ServedVersion, *, decoded: bool) -> None:
    """Check that images which were prepared for one version can be given to another one.

    Raises:
        ModelNotReady: It takes images of another size, or faces instead of images, or those that
            were decoded here would be resized for it in another way.
    """
    if (
        before.input_size != now.input_size
        or takes_portraits(before.manifest) != takes_portraits(now.manifest)
        or (decoded and preparation(before, None) != preparation(now, None))
    ):
        raise ModelNotReady(
            f"Another version of '{now.name}' answers since the images were read. Send the "
            "request again.",
            retry_after=1,
        )


def _with_index(index: int, error: OpsinError) -> OpsinError:
    """The same error with the index of its image in the message."""
    return type(error)(f"Image {index}: {error.detail}", retry_after=error.retry_after)

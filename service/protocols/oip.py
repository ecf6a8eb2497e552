"""The Open Inference Protocol v2, read and written, with its binary tensor extension.

A body is JSON, or JSON and then the raw tensors in the order in which the JSON names them; the
header `Inference-Header-Content-Length` says where the one ends and the other begins.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pydantic

from contracts.errors import BadRequest, ValidationFailed
from contracts.inference.inference import Operation
from contracts.inference.registry import ModelInfo
from contracts.queue.messages import Pixels
from models.serving.outputs import Matrix
from service.protocols.oip_schemas import (
    InferRequest,
    InferResponse,
    InputTensor,
    ModelMetadata,
    ModelState,
    OutputTensor,
    TensorMetadata,
    WantedOutput,
)
from service.protocols.signature import (
    DEFAULT_OUTPUT,
    INPUT,
    OPERATIONS,
    Signature,
    picture_of,
    widths_of,
)
from service.protocols.tensor_json import CHARACTERS_A_NUMBER, numbers_of, parse

LENGTH_HEADER = "Inference-Header-Content-Length"
EXTENSIONS = ("binary_tensor_data", "model_configuration", "model_repository")
PLATFORM = "tensorflow_savedmodel"
_ENVELOPE = 64 * 1024  # bytes of JSON around the pixels


@dataclass(frozen=True, slots=True)
class Wanted:
    """One output to answer with."""

    name: str
    binary: bool

    @property
    def operation(self) -> Operation:
        return OPERATIONS[self.name]


@dataclass(frozen=True, slots=True)
class InferAsk:
    """A request, understood.

    Attributes:
        id: The client's own, to be sent back.
        pixels: (n, height, width, 3).
        outputs: At least one, in the order of the answer.
        timeout: Seconds from its arrival, if the client set a bound.
    """

    id: str | None
    pixels: Pixels
    outputs: tuple[Wanted, ...]
    timeout: float | None


@dataclass(frozen=True, slots=True)
class Packed:
    """An answer, ready to be sent.

    Attributes:
        body: JSON, and the binary tensors after it.
        json_length: Where the JSON ends; None if nothing follows it.
    """

    body: bytes
    json_length: int | None


def most_bytes(signature: Signature) -> int:
    """The bytes that the largest request has: all its pictures as JSON."""
    return _ENVELOPE + CHARACTERS_A_NUMBER * signature.levels * signature.most


def read_infer(body: bytes, json_length: str | None, signature: Signature) -> InferAsk:
    """Understand a request.

    Args:
        body: All of it.
        json_length: The header `Inference-Header-Content-Length`, None if it was not sent.
        signature: What the model takes.

    Raises:
        BadRequest: The body is not what its lengths say, or not JSON.
        ValidationFailed: Names, types, shapes or numbers are not those of the model.
        PayloadTooLarge: It holds more than a request may.
    """
    text, tail = _split(body, json_length)
    try:
        request = InferRequest.model_validate(parse(text))
    except pydantic.ValidationError as error:
        raise ValidationFailed(_where(error)) from None
    pixels = _pixels(_only_image(request.inputs), tail, signature)
    micros = request.parameters.timeout
    outputs = _wanted(request.outputs, default=bool(request.parameters.binary_data_output))
    return InferAsk(request.id, pixels, outputs, micros / 1e6 if micros else None)


def pack(ask: InferAsk, model: str, version: int, tensors: Mapping[str, Matrix]) -> Packed:
    """The answer to `ask`.

    Args:
        ask: What was asked.
        model: The model's name.
        version: The version that answered.
        tensors: For each wanted output (n, k) float32.
    """
    described, raw = [], []
    for wanted in ask.outputs:
        tensor = tensors[wanted.name]
        one = OutputTensor(name=wanted.name, datatype="FP32", shape=list(tensor.shape))
        if wanted.binary:
            raw.append(tensor.astype("<f4", copy=False).tobytes())
            one.parameters = {"binary_data_size": len(raw[-1])}
        else:
            one.data = tensor.ravel().tolist()
        described.append(one)
    response = InferResponse(
        model_name=model, model_version=str(version), id=ask.id, outputs=described
    )
    head = response.model_dump_json(exclude_none=True).encode()
    return Packed(b"".join([head, *raw]), len(head) if raw else None)


def metadata(info: ModelInfo, versions: list[int]) -> ModelMetadata:
    """What a client may know of a model before it asks."""
    picture = TensorMetadata(name=INPUT, datatype="UINT8", shape=[-1, *picture_of(info)])
    outputs = [
        TensorMetadata(name=name, datatype="FP32", shape=[-1, width])
        for name, width in widths_of(info).items()
    ]
    return ModelMetadata(
        name=info.name,
        versions=[str(version) for version in versions],
        platform=PLATFORM,
        inputs=[picture],
        outputs=outputs,
    )


def configuration(info: ModelInfo, most: int) -> dict[str, Any]:
    """The part of Triton's `ModelConfig` that its tools read."""
    return {
        "name": info.name,
        "platform": PLATFORM,
        "backend": "tensorflow",
        "max_batch_size": most,
        "input": [
            {
                "name": INPUT,
                "data_type": "TYPE_UINT8",
                "format": "FORMAT_NHWC",
                "dims": list(picture_of(info)),
            }
        ],
        "output": [
            {"name": name, "data_type": "TYPE_FP32", "dims": [width]}
            for name, width in widths_of(info).items()
        ],
        "dynamic_batching": {},
    }


def states(info: ModelInfo) -> list[ModelState]:
    """The repository's entries of a model: one a version that workers hold, or else one."""
    held = [version for version in info.versions if version in info.aliases.values()]
    ready = "classify" in info.operations
    state = "READY" if ready else "LOADING" if info.state == "loading" else "UNAVAILABLE"
    return [
        ModelState(name=info.name, version=version, state=state, reason=info.reason or "")
        for version in [str(version) for version in held] or [""]
    ]


def _split(body: bytes, json_length: str | None) -> tuple[bytes, memoryview]:
    if json_length is None:
        return body, memoryview(b"")
    if not (json_length.isascii() and json_length.isdecimal()) or len(json_length) > 18:
        raise BadRequest(f"{LENGTH_HEADER} is the number of bytes of the JSON.")
    end = int(json_length)
    if end > len(body):
        raise BadRequest(f"{LENGTH_HEADER} is {end}, but the body has only {len(body)} bytes.")
    return body[:end], memoryview(body)[end:]


def _where(error: pydantic.ValidationError) -> str:
    """Where in the JSON the faults are, and what is wrong with the first few."""
    told = [f"{'.'.join(map(str, one['loc'])) or 'body'}: {one['msg']}" for one in error.errors()]
    return "; ".join(told[:3])[:500] + "."


def _only_image(inputs: list[InputTensor]) -> InputTensor:
    if len(inputs) != 1 or inputs[0].name != INPUT:
        raise ValidationFailed(f"Send one input, '{INPUT}': all images of the request in it.")
    return inputs[0]


def _pixels(tensor: InputTensor, tail: memoryview, signature: Signature) -> Pixels:
    """The pictures of the input; binary ones are a view of the body.

    Raises:
        BadRequest: The binary data is not as long as was said.
        ValidationFailed: Type or shape is not the model's, or a number no pixel.
    """
    if tensor.datatype != "UINT8":
        raise ValidationFailed(
            f"'{INPUT}' is UINT8: RGB pixels from 0 to 255. Preprocessing is done by the model."
        )
    shape = tuple(tensor.shape)
    if len(shape) != 4 or shape[1:] != signature.picture:
        raise ValidationFailed(f"'{INPUT}' has the shape {[*signature.batch]}, -1 for its images.")
    signature.require_batch(shape[0])
    if tensor.parameters.shared_memory_region is not None:
        raise ValidationFailed("Shared memory is not offered; send the tensor as bytes or JSON.")
    size = tensor.parameters.binary_data_size
    if size is not None:
        return _binary(tensor, size, tail, shape)
    if tail:
        raise BadRequest(f"{len(tail)} bytes follow the JSON that it does not speak of.")
    numbers = numbers_of(tensor.data)
    if numbers is None:
        raise ValidationFailed(f"'{INPUT}' needs `data`, an array, or `binary_data_size`.")
    flat = (shape[0] * signature.levels,)
    return numbers.read(flat, shape, most=signature.most * signature.levels).reshape(shape)


def _binary(tensor: InputTensor, size: int, tail: memoryview, shape: tuple[int, ...]) -> Pixels:
    if tensor.data is not None:
        raise ValidationFailed(f"'{INPUT}' has both `data` and `binary_data_size`; send one.")
    if size != len(tail):
        raise BadRequest(f"binary_data_size is {size}, but {len(tail)} bytes follow the JSON.")
    if size != int(np.prod(shape, dtype=np.int64)):
        raise ValidationFailed(f"{size} bytes do not fill the shape {[*shape]} of UINT8.")
    return np.frombuffer(tail, np.uint8).reshape(shape)


def _wanted(outputs: list[WantedOutput], *, default: bool) -> tuple[Wanted, ...]:
    names = [output.name for output in outputs]
    if not set(names) <= OPERATIONS.keys() or len(set(names)) != len(names):
        raise ValidationFailed(f"The outputs are {', '.join(OPERATIONS)}; name each once.")
    wanted = []
    for output in outputs:
        said = output.parameters
        if said.classification is not None or said.shared_memory_region is not None:
            raise ValidationFailed(
                "Outputs are given as numbers, by JSON or as bytes; /v1/classify gives labels."
            )
        wanted.append(
            Wanted(output.name, default if said.binary_data is None else said.binary_data)
        )
    return tuple(wanted) or (Wanted(DEFAULT_OUTPUT, default),)

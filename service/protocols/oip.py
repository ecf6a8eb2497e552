"""Parses and writes the Open Inference Protocol v2 with its binary tensor extension.

A body is JSON, or JSON followed by the raw tensors in the order in which the JSON names them. The
header `Inference-Header-Content-Length` is the length of the JSON.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pydantic

from contracts.errors import BadRequest, ValidationFailed
from contracts.inference.inference import VectorOperation
from contracts.inference.registry import ModelInfo
from contracts.queue.messages import Pixels
from models.serving.outputs import Matrix
from service.protocols.oip_schemas import (
    InferRequest,
    InferResponse,
    InputTensor,
    ModelMetadata,
    OutputTensor,
    RequestParameters,
    TensorMetadata,
)
from service.protocols.tensor_json import MAX_CHARACTERS_PER_NUMBER, numbers_of, parse
from service.protocols.tensor_spec import (
    INPUT,
    OPERATIONS,
    TensorSpec,
    image_shape,
    output_widths,
)

LENGTH_HEADER = "Inference-Header-Content-Length"
EXTENSIONS = ("binary_tensor_data", "classification", "model_configuration", "statistics")
PLATFORM = "tensorflow_savedmodel"
NO_SHARED_MEMORY = (
    "The server does not support shared memory. Send and receive tensors as bytes or JSON."
)
_MAX_MICROSECONDS = 2**53  # any longer time is the same
_MAX_ENVELOPE_BYTES = 64 * 1024  # of JSON around the pixels


@dataclass(frozen=True, slots=True)
class RequestedOutput:
    """One output of the response."""

    name: str
    binary: bool
    classes: int = 0  # of the largest numbers, as texts; 0: all numbers

    @property
    def operation(self) -> VectorOperation:
        return OPERATIONS[self.name]


@dataclass(frozen=True, slots=True)
class ParsedInfer:
    """A parsed request.

    Attributes:
        id: The client's, which the response repeats.
        pixels: (n, height, width, 3).
        outputs: At least one, in the order of the response.
        timeout: Seconds from its arrival, if the client set a limit.
    """

    id: str | None
    pixels: Pixels
    outputs: tuple[RequestedOutput, ...]
    timeout: float | None


@dataclass(frozen=True, slots=True)
class EncodedResponse:
    """The body of a response.

    Attributes:
        body: JSON, followed by the binary tensors.
        json_length: The length of the JSON; None if nothing follows it.
    """

    body: bytes
    json_length: int | None


def max_body_bytes(spec: TensorSpec) -> int:
    """The bytes of the largest request: all its images as JSON."""
    return _MAX_ENVELOPE_BYTES + MAX_CHARACTERS_PER_NUMBER * spec.max_numbers


def parse_infer(body: bytes, json_length: str | None, spec: TensorSpec) -> ParsedInfer:
    """Parse a request.

    Args:
        body: All of it.
        json_length: The header `Inference-Header-Content-Length`, None if it was not sent.
        spec: The model's input.

    Raises:
        BadRequest: The body does not have the lengths it states, or is not JSON.
        ValidationFailed: Names, types, shapes or numbers do not fit the model.
        PayloadTooLarge: It holds more than a request may.
    """
    text, tail = _split(body, json_length)
    try:
        request = InferRequest.model_validate(parse(text))
    except pydantic.ValidationError as error:
        raise ValidationFailed(_error_text(error)) from None
    _require_no_sequence(request.parameters)
    outputs = _requested_outputs(request, spec)
    pixels = _pixels(_only_image(request.inputs), tail, spec)
    micros = min(request.parameters.timeout or 0, _MAX_MICROSECONDS)
    return ParsedInfer(request.id, pixels, outputs, micros / 1e6 if micros else None)


def encode_response(
    parsed: ParsedInfer,
    model: str,
    version: int,
    tensors: Mapping[str, Matrix],
    labels: Sequence[str] = (),
) -> EncodedResponse:
    """The response to a request.

    Args:
        parsed: The request.
        model: The model's name.
        version: The version that answered.
        tensors: For each requested output, by name, (n, k) float32.
        labels: The names of the probabilities.
    """
    outputs, raw = [], []
    for requested in parsed.outputs:
        tensor = tensors[requested.name]
        if requested.classes:
            names = labels if requested.name == "probabilities" else ()
            output, data = _encode_classes(requested, tensor, names)
        else:
            output, data = _encode_numbers(requested, tensor)
        if requested.binary:
            output.parameters = {"binary_data_size": len(data)}
            raw.append(data)
        outputs.append(output)
    response = InferResponse(
        model_name=model, model_version=str(version), id=parsed.id, outputs=outputs
    )
    head = response.model_dump_json(exclude_none=True).encode()
    return EncodedResponse(b"".join([head, *raw]), len(head) if raw else None)


def _encode_numbers(requested: RequestedOutput, tensor: Matrix) -> tuple[OutputTensor, bytes]:
    """All numbers: the tensor and, if it is binary, its bytes."""
    output = OutputTensor(name=requested.name, datatype="FP32", shape=list(tensor.shape))
    if requested.binary:
        return output, tensor.astype("<f4", copy=False).tobytes()
    output.data = tensor.ravel().tolist()
    return output, b""


def _encode_classes(
    requested: RequestedOutput, tensor: Matrix, labels: Sequence[str]
) -> tuple[OutputTensor, bytes]:
    """Triton's classification extension: the largest numbers of each row, as texts."""
    count = min(requested.classes, tensor.shape[1])
    texts = [
        ":".join([f"{row[index]:f}", str(index), *labels[index : index + 1]])
        for row in tensor
        for index in np.argsort(-row, kind="stable")[:count]
    ]
    output = OutputTensor(name=requested.name, datatype="BYTES", shape=[len(tensor), count])
    if requested.binary:
        encoded = [text.encode() for text in texts]
        return output, b"".join(struct.pack("<I", len(one)) + one for one in encoded)
    output.data = texts
    return output, b""


def metadata(info: ModelInfo, versions: list[int]) -> ModelMetadata:
    """The versions and tensors of a model."""
    image = TensorMetadata(name=INPUT, datatype="UINT8", shape=[-1, *image_shape(info)])
    outputs = [
        TensorMetadata(name=name, datatype="FP32", shape=[-1, width])
        for name, width in output_widths(info).items()
    ]
    return ModelMetadata(
        name=info.name,
        versions=[str(version) for version in versions],
        platform=PLATFORM,
        inputs=[image],
        outputs=outputs,
    )


def configuration(info: ModelInfo, max_images: int) -> dict[str, Any]:
    """The part of Triton's `ModelConfig` that its tools read."""
    return {
        "name": info.name,
        "platform": PLATFORM,
        "backend": "tensorflow",
        "max_batch_size": max_images,
        "input": [
            {
                "name": INPUT,
                "data_type": "TYPE_UINT8",
                "format": "FORMAT_NHWC",
                "dims": list(image_shape(info)),
            }
        ],
        "output": [
            {"name": name, "data_type": "TYPE_FP32", "dims": [width]}
            for name, width in output_widths(info).items()
        ],
        "dynamic_batching": {},
    }


def _split(body: bytes, json_length: str | None) -> tuple[bytes, memoryview]:
    if json_length is None:
        return body, memoryview(b"")
    if not (json_length.isascii() and json_length.isdecimal()) or len(json_length) > 18:
        raise BadRequest(f"{LENGTH_HEADER} must be the length of the JSON in bytes.")
    end = int(json_length)
    if end > len(body):
        raise BadRequest(f"{LENGTH_HEADER} is {end}, but the body has only {len(body)} bytes.")
    return body[:end], memoryview(body)[end:]


def _error_text(error: pydantic.ValidationError) -> str:
    """The first few errors with their locations in the JSON."""
    texts = [
        f"{'.'.join(map(str, item['loc'])) or 'body'}: {item['msg']}" for item in error.errors()
    ]
    return "; ".join(texts[:3])[:500] + "."


def _only_image(inputs: list[InputTensor]) -> InputTensor:
    if len(inputs) != 1 or inputs[0].name != INPUT:
        raise ValidationFailed(f"Send one input, '{INPUT}', with all images of the request in it.")
    return inputs[0]


def _pixels(tensor: InputTensor, tail: memoryview, spec: TensorSpec) -> Pixels:
    """The images of the input; binary ones are a view of the body.

    Raises:
        BadRequest: The binary data does not have the stated length.
        ValidationFailed: Type or shape is not the model's, or a number is not a pixel.
    """
    if tensor.datatype != "UINT8":
        raise ValidationFailed(
            f"'{INPUT}' must be UINT8: RGB pixels from 0 to 255. The model preprocesses them."
        )
    shape = tuple(tensor.shape)
    if len(shape) != 4 or shape[1:] != spec.image:
        raise ValidationFailed(
            f"'{INPUT}' must have the shape {[*spec.batch]}, where -1 is any count."
        )
    spec.require_batch(shape[0])
    if tensor.parameters.shared_memory_region is not None:
        raise ValidationFailed(NO_SHARED_MEMORY)
    size = tensor.parameters.binary_data_size
    if size is not None:
        return _binary(tensor, size, tail, shape)
    if tail:
        raise BadRequest(f"{len(tail)} bytes follow the JSON, which does not mention them.")
    numbers = numbers_of(tensor.data)
    if numbers is None:
        raise ValidationFailed(f"'{INPUT}' needs `data`, an array, or `binary_data_size`.")
    flat = (shape[0] * spec.image_bytes,)
    return numbers.read(flat, shape, max_numbers=spec.max_numbers).reshape(shape)


def _binary(tensor: InputTensor, size: int, tail: memoryview, shape: tuple[int, ...]) -> Pixels:
    if tensor.data is not None:
        raise ValidationFailed(f"'{INPUT}' has both `data` and `binary_data_size`; send one.")
    if size != len(tail):
        raise BadRequest(f"binary_data_size is {size}, but {len(tail)} bytes follow the JSON.")
    if size != int(np.prod(shape, dtype=np.int64)):
        raise ValidationFailed(f"{size} bytes do not fill the shape {[*shape]} of UINT8.")
    return np.frombuffer(tail, np.uint8).reshape(shape)


def _require_no_sequence(parameters: RequestParameters) -> None:
    """Refuse a request that continues or begins a sequence of several.

    Raises:
        ValidationFailed: The model would have to remember it.
    """
    whole = parameters.sequence_start and parameters.sequence_end
    if parameters.sequence_id not in (None, 0, "") and not whole:
        raise ValidationFailed(
            "The server does not support sequences: every request is answered by itself. Leave "
            "sequence_id out, or set both sequence_start and sequence_end."
        )


def _requested_outputs(request: InferRequest, spec: TensorSpec) -> tuple[RequestedOutput, ...]:
    default = bool(request.parameters.binary_data_output)
    names = [output.name for output in request.outputs]
    if not set(names) <= set(spec.outputs) or len(set(names)) != len(names):
        raise ValidationFailed(f"The outputs are {', '.join(spec.outputs)}; name each once.")
    requested = []
    for output in request.outputs:
        parameters = output.parameters
        if parameters.shared_memory_region is not None:
            raise ValidationFailed(NO_SHARED_MEMORY)
        binary = default if parameters.binary_data is None else parameters.binary_data
        requested.append(RequestedOutput(output.name, binary, parameters.classification or 0))
    return tuple(requested) or (RequestedOutput(spec.outputs[0], default),)

"""Parses and writes TensorFlow Serving's REST predict and metadata.

https://www.tensorflow.org/tfx/serving/api_rest. Images are nested numbers, or encoded as
`{"b64": …}` and then decoded like every other upload.
"""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, Field

from contracts.errors import InvalidImage, OpsinError, PayloadTooLarge, ValidationFailed
from contracts.inference.inference import VectorOperation
from contracts.inference.registry import ModelInfo
from contracts.queue.messages import Pixels
from models.serving.outputs import Matrix
from service.protocols.tensor_json import LongString, Numbers, numbers_of, parse
from service.protocols.tensor_spec import (
    INPUT,
    OPERATIONS,
    TensorSpec,
    image_shape,
    output_widths,
)

DEFAULT_SIGNATURE = "serving_default"
# The output of each but the default one, whose output is the first that the model has.
_SIGNATURES = {"serve": "probabilities", "features": "features"}
Image = Pixels | bytes | OpsinError

_METHOD = "tensorflow/serving/predict"
_B64 = frozenset({"b64"})
# The URL-safe alphabet, which TensorFlow's own clients write, and white space.
_BASE64 = str.maketrans("-_", "+/", " \t\r\n")
_PADDING = "= \t\r\n"
_BLOCK = 1 << 17  # characters
_NAMED = frozenset({INPUT})


class PredictRequest(BaseModel):
    """The request, for the documentation: `parse_predict` reads it without building lists."""

    signature_name: Literal["serving_default", "serve", "features"] = Field(
        "serving_default", description="`features` returns embeddings, the others probabilities."
    )
    instances: list[Any] | None = Field(
        None, description="One image each: nested numbers, or an object with `b64`."
    )
    inputs: Any = Field(None, description="Instead of `instances`: all images as one tensor.")


class PredictResponse(BaseModel):
    """The response: `predictions` to `instances`, `outputs` to `inputs`."""

    predictions: list[list[float]] | None = Field(None, description="A row for each instance.")
    outputs: list[list[float]] | None = Field(None, description="A row for each input.")


class ModelSpec(BaseModel):
    """A model and version."""

    name: str
    signature_name: str = ""
    version: str


class Metadata(BaseModel):
    """A model's signatures, as TensorFlow writes them."""

    model_spec: ModelSpec
    metadata: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ParsedPredict:
    """A parsed request.

    Attributes:
        operation: That of the requested signature.
        response_key: The key of the rows in the response.
        images: Pixels of the network's input size, or the bytes of an encoded image, or its
            error.
    """

    operation: VectorOperation
    response_key: Literal["predictions", "outputs"]
    images: Sequence[Image]


def parse_predict(body: bytes, spec: TensorSpec, max_image_bytes: int) -> ParsedPredict:
    """Parse a request.

    Args:
        body: All of it.
        spec: The model's input.
        max_image_bytes: Of an encoded image.

    Raises:
        BadRequest: The body is not JSON.
        ValidationFailed: It does not fit the model.
        PayloadTooLarge: It holds more numbers than a request may.
    """
    document = parse(body)
    if not isinstance(document, dict):
        raise ValidationFailed("The body must be an object with `instances` or `inputs`.")
    document = {name: value for name, value in document.items() if value is not None}
    operation = _operation(document.get("signature_name"), spec)
    if ("instances" in document) == ("inputs" in document):
        raise ValidationFailed("Send either `instances` or `inputs`.")
    images = _Images(spec, max_image_bytes)
    if "instances" in document:
        return ParsedPredict(operation, "predictions", images.of_rows(document["instances"]))
    return ParsedPredict(operation, "outputs", images.of_column(document["inputs"]))


def encode_response(parsed: ParsedPredict, rows: Matrix) -> bytes:
    """The response as JSON: (n, k) float32 as a list of rows."""
    response = PredictResponse(**{parsed.response_key: rows.tolist()})
    return response.model_dump_json(exclude_none=True).encode()


def metadata(info: ModelInfo, version: int) -> Metadata:
    """The signatures of one version."""
    widths = output_widths(info)
    image = _tensor(f"serving_default_{INPUT}", "DT_UINT8", (-1, *image_shape(info)))
    signatures = {
        name: {
            "inputs": {INPUT: image},
            "outputs": {output: _tensor(output, "DT_FLOAT", (-1, widths[output]))},
            "method_name": _METHOD,
        }
        for name, output in _signatures(tuple(widths)).items()
    }
    return Metadata(
        model_spec=ModelSpec(name=info.name, version=str(version)),
        metadata={"signature_def": {"signature_def": signatures}},
    )


@dataclass(frozen=True, slots=True)
class _Images:
    """Finds the images in a request's JSON."""

    spec: TensorSpec
    max_image_bytes: int

    def of_rows(self, value: Any) -> list[Image]:
        """`instances`: one value for each image."""
        if isinstance(value, list) and any(isinstance(item, dict) for item in value):
            self.spec.require_batch(len(value))
            return [self._image(item) for item in value]
        return self._batch(value)

    def of_column(self, value: Any) -> list[Image]:
        """`inputs`: the only tensor, by itself or under its name."""
        if isinstance(value, dict) and value.keys() == _NAMED:
            value = value[INPUT]
        return self.of_rows([value] if isinstance(value, dict) else value)

    def _batch(self, value: Any) -> list[Image]:
        pixels = self._numbers(value, self.spec.batch)
        self.spec.require_batch(len(pixels))
        return list(pixels)

    def _image(self, value: Any) -> Image:
        if isinstance(value, dict) and value.keys() == _NAMED:
            value = value[INPUT]
        if isinstance(value, dict) and value.keys() == _B64:
            return self._decoded(value["b64"])
        return self._numbers(value, self.spec.image)

    def _numbers(self, value: Any, shape: tuple[int, ...]) -> Pixels:
        numbers: Numbers | None = numbers_of(value)
        if numbers is None:
            raise ValidationFailed(
                f'Each image must be RGB numbers of the shape {[*self.spec.image]}, or {{"b64": '
                f"…}} with the base64 of its file; the input is called '{INPUT}'."
            )
        return numbers.read(shape, max_numbers=self.spec.max_numbers)

    def _decoded(self, text: Any) -> bytes | OpsinError:
        if not isinstance(text, str | LongString):
            return InvalidImage("`b64` must be a string: the base64 of an image file.")
        too_large = PayloadTooLarge(f"An image may have {self.max_image_bytes} bytes.")
        # Lines of 76 characters, at most, and padding.
        most = (self.max_image_bytes * 78 // 76 + 4) * 4 // 3
        try:
            plain = text.read(most) if isinstance(text, LongString) else text
            if plain is None or len(plain) > most:
                return too_large
            data = _decode_base64(plain)
        except (binascii.Error, ValueError):
            return InvalidImage("`b64` is not base64; encode the bytes of the image file.")
        if len(data) > self.max_image_bytes:
            return too_large
        return data or InvalidImage("`b64` is empty; encode the bytes of the image file.")


def _decode_base64(text: str) -> bytes:
    """Base64 as TensorFlow Serving accepts it: of either alphabet, in lines, without padding.

    In small pieces, since each call holds the interpreter lock.

    Raises:
        ValueError: It is not base64.
    """
    text = text.rstrip(_PADDING)
    _, is_data_url, first = text[:_BLOCK].partition(";base64,")
    start = min(len(text), _BLOCK) - len(first) if is_data_url else 0
    decoded, left = list[bytes](), ""
    for block in range(start, len(text), _BLOCK):
        left += text[block : block + _BLOCK].translate(_BASE64)
        whole = len(left) // 4 * 4
        if "=" in left:  # which is accepted at the end of what is decoded at a time
            raise ValueError("padding within the text")
        decoded.append(base64.b64decode(left[:whole], validate=True))
        left = left[whole:]
    decoded.append(base64.b64decode(left + "=" * (-len(left) % 4), validate=True))
    return b"".join(decoded)


def _signatures(outputs: Sequence[str]) -> dict[str, str]:
    """The output of each signature of a model with these outputs."""
    named = {name: output for name, output in _SIGNATURES.items() if output in outputs}
    return {DEFAULT_SIGNATURE: outputs[0]} | named if outputs else {}


def _operation(name: Any, spec: TensorSpec) -> VectorOperation:
    signatures = _signatures(spec.outputs)
    if name is None or name == "":
        name = DEFAULT_SIGNATURE
    if not isinstance(name, str) or name not in signatures:
        raise ValidationFailed(f"The signatures are {', '.join(signatures)}.")
    return OPERATIONS[signatures[name]]


def _tensor(name: str, dtype: str, shape: Sequence[int]) -> dict[str, Any]:
    """TensorFlow's `TensorInfo`, with its numbers as strings."""
    sizes = [{"size": str(size), "name": ""} for size in shape]
    return {
        "dtype": dtype,
        "tensor_shape": {"dim": sizes, "unknown_rank": False},
        "name": f"{name}:0",
    }

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
from service.protocols.tensor_json import Numbers, numbers_of, parse
from service.protocols.tensor_spec import INPUT, TensorSpec, image_shape, output_widths

SIGNATURES: dict[str, str] = {
    "serving_default": "probabilities",
    "serve": "probabilities",
    "features": "features",
}
_OPERATIONS: dict[str, VectorOperation] = {
    "serving_default": "classify",
    "serve": "classify",
    "features": "embed",
}
Image = Pixels | bytes | OpsinError

_METHOD = "tensorflow/serving/predict"
_B64 = frozenset({"b64"})
_NAMED = frozenset({INPUT})


class Predictions(BaseModel):
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
    operation = _operation(document.get("signature_name"))
    if ("instances" in document) == ("inputs" in document):
        raise ValidationFailed("Send either `instances` or `inputs`.")
    images = _Images(spec, max_image_bytes)
    if "instances" in document:
        return ParsedPredict(operation, "predictions", images.of_rows(document["instances"]))
    return ParsedPredict(operation, "outputs", images.of_column(document["inputs"]))


def encode_response(parsed: ParsedPredict, rows: Matrix) -> bytes:
    """The response as JSON: (n, k) float32 as a list of rows."""
    response = Predictions(**{parsed.response_key: rows.tolist()})
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
        for name, output in SIGNATURES.items()
        if output in widths
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
        if not isinstance(text, str):
            return InvalidImage("`b64` must be a string: the base64 of an image file.")
        too_large = PayloadTooLarge(f"An image may have {self.max_image_bytes} bytes.")
        if len(text) * 3 // 4 > self.max_image_bytes + 2:  # its padding
            return too_large
        try:
            # TensorFlow's own clients write the URL-safe alphabet.
            plain = text.replace("-", "+").replace("_", "/")
            data = base64.b64decode(plain, validate=True)
        except (binascii.Error, ValueError):
            return InvalidImage("`b64` is not base64; encode the bytes of the image file.")
        if len(data) > self.max_image_bytes:
            return too_large
        return data or InvalidImage("`b64` is empty; encode the bytes of the image file.")


def _operation(name: Any) -> VectorOperation:
    if name is None or name == "":
        return "classify"
    if not isinstance(name, str) or name not in _OPERATIONS:
        raise ValidationFailed(f"The signatures are {', '.join(SIGNATURES)}.")
    return _OPERATIONS[name]


def _tensor(name: str, dtype: str, shape: Sequence[int]) -> dict[str, Any]:
    """TensorFlow's `TensorInfo`, with its numbers as strings."""
    sizes = [{"size": str(size), "name": ""} for size in shape]
    return {
        "dtype": dtype,
        "tensor_shape": {"dim": sizes, "unknown_rank": False},
        "name": f"{name}:0",
    }

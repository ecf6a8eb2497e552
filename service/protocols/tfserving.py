"""TensorFlow Serving's REST predict and metadata, read and written.

https://www.tensorflow.org/tfx/serving/api_rest. Images come as nested numbers, or encoded as
`{"b64": …}`, and then go through the same decoder as every other upload.
"""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, Field

from contracts.errors import InvalidImage, OpsinError, PayloadTooLarge, ValidationFailed
from contracts.inference.inference import Operation
from contracts.inference.registry import ModelInfo
from contracts.queue.messages import Pixels
from models.serving.outputs import Matrix
from service.protocols.signature import INPUT, Signature, picture_of, widths_of
from service.protocols.tensor_json import Numbers, numbers_of, parse

SIGNATURES: dict[str, str] = {
    "serving_default": "probabilities",
    "serve": "probabilities",
    "features": "features",
}
_OPERATIONS: dict[str, Operation] = {
    "serving_default": "classify",
    "serve": "classify",
    "features": "embed",
}
Image = Pixels | bytes | OpsinError

_METHOD = "tensorflow/serving/predict"
_B64 = frozenset({"b64"})
_NAMED = frozenset({INPUT})


class Predictions(BaseModel):
    """The answer to a prediction: to `instances` the one, to `inputs` the other."""

    predictions: list[list[float]] | None = Field(None, description="A row for each instance.")
    outputs: list[list[float]] | None = Field(None, description="A row for each input.")


class ModelSpec(BaseModel):
    """Which version of which model."""

    name: str
    signature_name: str = ""
    version: str


class Metadata(BaseModel):
    """A model's signatures, as TensorFlow writes them."""

    model_spec: ModelSpec
    metadata: dict[str, Any]


@dataclass(frozen=True, slots=True)
class PredictAsk:
    """A request, understood.

    Attributes:
        operation: By the signature that was named.
        answer: The key the answer stands under.
        images: Pixels of the network's input size, or the bytes of an encoded image; or why
            there are none.
    """

    operation: Operation
    answer: Literal["predictions", "outputs"]
    images: Sequence[Image]


def read_predict(body: bytes, signature: Signature, most_image_bytes: int) -> PredictAsk:
    """Understand a request.

    Args:
        body: All of it.
        signature: What the model takes.
        most_image_bytes: Bytes an encoded image may have.

    Raises:
        BadRequest: The body is not JSON.
        ValidationFailed: It is not what the model takes.
        PayloadTooLarge: It holds more numbers than a request may.
    """
    document = parse(body)
    if not isinstance(document, dict):
        raise ValidationFailed("The body is an object with `instances` or `inputs`.")
    operation = _operation(document.get("signature_name"))
    if ("instances" in document) == ("inputs" in document):
        raise ValidationFailed("Send either `instances` or `inputs`.")
    images = _Images(signature, most_image_bytes)
    if "instances" in document:
        return PredictAsk(operation, "predictions", images.of_rows(document["instances"]))
    return PredictAsk(operation, "outputs", images.of_column(document["inputs"]))


def answer(ask: PredictAsk, rows: Matrix) -> bytes:
    """The answer to `ask`, as JSON: (n, k) float32 as a list of rows."""
    answered = Predictions(**{ask.answer: rows.tolist()})
    return answered.model_dump_json(exclude_none=True).encode()


def metadata(info: ModelInfo, version: int) -> Metadata:
    """The signatures of one version."""
    widths = widths_of(info)
    picture = _tensor(f"serving_default_{INPUT}", "DT_UINT8", (-1, *picture_of(info)))
    signatures = {
        name: {
            "inputs": {INPUT: picture},
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

    signature: Signature
    most_image_bytes: int

    def of_rows(self, value: Any) -> list[Image]:
        """`instances`: one value an image."""
        if isinstance(value, list) and any(isinstance(one, dict) for one in value):
            self.signature.require_batch(len(value))
            return [self._image(one) for one in value]
        return self._batch(value)

    def of_column(self, value: Any) -> list[Image]:
        """`inputs`: the one tensor, by itself or under its name."""
        if isinstance(value, dict) and value.keys() == _NAMED:
            value = value[INPUT]
        return self.of_rows([value] if isinstance(value, dict) else value)

    def _batch(self, value: Any) -> list[Image]:
        pixels = self._numbers(value, self.signature.batch)
        self.signature.require_batch(len(pixels))
        return list(pixels)

    def _image(self, value: Any) -> Image:
        if isinstance(value, dict) and value.keys() == _NAMED:
            value = value[INPUT]
        if isinstance(value, dict) and value.keys() == _B64:
            return self._decoded(value["b64"])
        return self._numbers(value, self.signature.picture)

    def _numbers(self, value: Any, shape: tuple[int, ...]) -> Pixels:
        numbers: Numbers | None = numbers_of(value)
        if numbers is None:
            raise ValidationFailed(
                f'Each image is RGB numbers of the shape {[*self.signature.picture]}, or {{"b64": '
                f"…}} with the base64 of its file; the input is called '{INPUT}'."
            )
        return numbers.read(shape, most=self.signature.most * self.signature.levels)

    def _decoded(self, text: Any) -> bytes | OpsinError:
        if not isinstance(text, str):
            return InvalidImage("`b64` is a string: the base64 of an image file.")
        too_large = PayloadTooLarge(f"An image may have {self.most_image_bytes} bytes.")
        if len(text) * 3 // 4 > self.most_image_bytes + 2:  # as many as its padding may be
            return too_large
        try:
            # TensorFlow's own clients write the URL-safe alphabet.
            plain = text.replace("-", "+").replace("_", "/")
            data = base64.b64decode(plain, validate=True)
        except (binascii.Error, ValueError):
            return InvalidImage("`b64` does not hold base64; encode the bytes of the image file.")
        if len(data) > self.most_image_bytes:
            return too_large
        return data or InvalidImage("`b64` is empty; encode the bytes of the image file.")


def _operation(name: Any) -> Operation:
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

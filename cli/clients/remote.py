"""Classification and explanations through a running server."""

import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from cli.clients.answers import read_whole
from cli.clients.http import SPARE_SECONDS, JsonObject, RefusedError, ServerClient
from cli.clients.types import ClassifyOptions, ImageFile, OverlayOptions, empty_response
from contracts.inference.inference import InferenceResponse, ItemError, ItemResult, Timing
from contracts.settings import Settings

# If a request holds a single image, an error of that image is the whole answer; these are such.
IMAGE_ERRORS = frozenset(
    {"invalid_image", "image_too_large", "payload_too_large", "unsupported_media_type"}
)
_BUSY = frozenset({"queue_full", "rate_limited"})
_MAX_TRIES = 8
_MAX_WAIT_SECONDS = 60.0

T = TypeVar("T")


class RemoteClient:
    """An `InferenceClient` over HTTP."""

    def __init__(self, settings: Settings, url: str) -> None:
        self._settings = settings
        self._client = ServerClient(settings, url)
        # Some methods are slow: they may take the longest that the server allows.
        seconds = settings.max_timeout_ms / 1000 + SPARE_SECONDS
        self._patient = ServerClient(settings, url, seconds=seconds)

    def classify(self, images: list[ImageFile], options: ClassifyOptions) -> InferenceResponse:
        """In requests as large as the server takes; a busy server is asked again."""
        step = self._settings.max_images
        parts = [
            patiently(partial(self._send, images[start : start + step], options))
            for start in range(0, len(images), step)
        ]
        return joined(parts) if parts else empty_response(options.model or "")

    def _send(self, images: list[ImageFile], options: ClassifyOptions) -> InferenceResponse:
        parameters: dict[str, str | int] = {"top_k": options.top}
        if options.resize:
            parameters["resize"] = options.resize
        if options.model is not None:
            parameters["model"] = options.model
        # The server detects the real type; the name only says that it is a file.
        files = [("image", (image.name, image.data, "image/*")) for image in images]
        try:
            with self._client.stream(
                "POST", "/v1/classify", params=parameters, files=files
            ) as answer:
                return InferenceResponse.model_validate_json(read_whole(answer))
        except RefusedError as refused:
            if len(images) != 1 or refused.code not in IMAGE_ERRORS:
                raise
            error = ItemError(code=refused.code, detail=refused.detail)
        result = ItemResult.model_validate({"name": images[0].name, "error": error})
        return empty_response(options.model or "").model_copy(update={"results": [result]})

    def explain(self, image: bytes, options: OverlayOptions) -> bytes:
        parameters = _parameters(options) | {
            "legend": options.legend,
            "alpha": options.alpha,
            "colormap": options.colormap,
            "compact": True,
            "output": options.view,
        }
        return self._heatmap(image, parameters, "image/png")

    def explain_numbers(self, image: bytes, options: OverlayOptions) -> JsonObject:
        content = self._heatmap(image, _parameters(options), "application/json")
        return dict(json.loads(content))

    def _heatmap(
        self, image: bytes, parameters: dict[str, str | int | float | bool], accept: str
    ) -> bytes:
        timeout = str(self._settings.max_timeout_ms)
        return self._patient.request(
            "POST",
            "/v1/heatmap",
            params=parameters,
            files={"image": ("photo", image, "image/*")},
            headers={"X-Timeout-Ms": timeout, "Accept": accept},
        ).content


def _parameters(options: OverlayOptions) -> dict[str, str | int | float | bool]:
    optional: dict[str, str | int | None] = {
        "model": options.model,
        "class_index": options.class_index,
        "layer": options.layer,
    }
    given = {name: value for name, value in optional.items() if value is not None}
    return {"method": options.method, **given}


def patiently(send: Callable[[], T]) -> T:
    """Send a request, and again when a busy server says that it may succeed.

    Raises:
        RefusedError: It is refused for another reason, or too often.
    """
    for _ in range(_MAX_TRIES - 1):
        try:
            return send()
        except RefusedError as refused:
            wait = refused.retry_after or 1.0
            if refused.code not in _BUSY or wait > _MAX_WAIT_SECONDS:
                raise
        time.sleep(wait)
    return send()


def joined(parts: Sequence[InferenceResponse]) -> InferenceResponse:
    """Several answers as one: the slowest of each stage, the sum of the totals."""
    timing = Timing(
        decode=max(part.timing_ms.decode for part in parts),
        queue=max(part.timing_ms.queue for part in parts),
        compute=max(part.timing_ms.compute for part in parts),
        total=sum(part.timing_ms.total for part in parts),
    )
    largest = max(parts, key=lambda part: part.batch_size)
    results = [result for part in parts for result in part.results]
    return largest.model_copy(update={"results": results, "timing_ms": timing})

"""Classification and explanations through a running server."""

import httpx

from cli.clients.api import describe_errors
from cli.clients.types import ClassifyOptions, ImageFile, OverlayOptions, empty_response
from cli.output import CommandError
from cli.settings import key_headers
from contracts.inference.inference import InferenceResponse, ItemError, ItemResult, Timing
from contracts.problem import Problem
from contracts.settings import Settings

# If a request holds a single image, an error of that image is the whole answer; these are such.
_IMAGE_ERRORS = frozenset(
    {"invalid_image", "image_too_large", "payload_too_large", "unsupported_media_type"}
)
_SPARE_SECONDS = 5.0


class RemoteClient:
    """An `InferenceClient` over HTTP."""

    def __init__(self, settings: Settings, url: str) -> None:
        self._settings = settings
        self._url = url

    def classify(self, images: list[ImageFile], options: ClassifyOptions) -> InferenceResponse:
        """In requests as large as the server takes."""
        timeout = self._settings.default_timeout_ms / 1000 + _SPARE_SECONDS
        with httpx.Client(
            base_url=self._url,
            headers=key_headers(self._settings),
            timeout=timeout,
            trust_env=False,
        ) as client:
            step = self._settings.max_images
            parts = [
                self._classify(client, images[start : start + step], options)
                for start in range(0, len(images), step)
            ]
        return _joined(parts) if parts else empty_response(options.model or "")

    def _classify(
        self, client: httpx.Client, images: list[ImageFile], options: ClassifyOptions
    ) -> InferenceResponse:
        parameters: dict[str, str | int] = {"top_k": options.top}
        if options.resize:
            parameters["resize"] = options.resize
        if options.model is not None:
            parameters["model"] = options.model
        # The server detects the real type; the name only says that it is a file.
        files = [("image", (image.name, image.data, "image/*")) for image in images]
        with describe_errors(self._url):
            answer = client.post("/v1/classify", params=parameters, files=files)
            if answer.is_success:
                return InferenceResponse.model_validate_json(answer.content)
            return self._refused(answer, images, options)

    def _refused(
        self, answer: httpx.Response, images: list[ImageFile], options: ClassifyOptions
    ) -> InferenceResponse:
        problem = Problem.model_validate_json(answer.content)
        if len(images) != 1 or problem.code not in _IMAGE_ERRORS:
            raise CommandError(problem.sentence)
        error = ItemError(code=problem.code, detail=problem.detail)
        result = ItemResult.model_validate({"name": images[0].name, "error": error})
        return empty_response(options.model or "").model_copy(update={"results": [result]})

    def explain(self, image: bytes, options: OverlayOptions) -> bytes:
        """Waits for the longest that the server takes, since some methods are slow."""
        parameters: dict[str, str | int | float | bool] = {
            "method": options.method,
            "legend": options.legend,
            "alpha": options.alpha,
            "colormap": options.colormap,
            "compact": True,
        }
        optional = {
            "model": options.model,
            "class_index": options.class_index,
            "layer": options.layer,
        }
        parameters |= {name: value for name, value in optional.items() if value is not None}
        milliseconds = self._settings.max_timeout_ms
        headers = {"X-Timeout-Ms": str(milliseconds), "Accept": "image/png"}
        with describe_errors(self._url):
            answer = httpx.post(
                f"{self._url}/v1/heatmap",
                params=parameters,
                files={"image": ("photo", image, "image/*")},
                headers=key_headers(self._settings) | headers,
                timeout=milliseconds / 1000 + _SPARE_SECONDS,
                trust_env=False,
            )
            if answer.is_success:
                return answer.content
            problem = Problem.model_validate_json(answer.content)
        raise CommandError(problem.sentence)


def _joined(parts: list[InferenceResponse]) -> InferenceResponse:
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

"""Classification through a running server, in requests as large as it takes."""

import httpx

from cli.clients.api import in_words
from cli.commands.classify import Photo, Question, empty
from cli.output import CommandError
from cli.settings import key_headers
from contracts.inference.inference import InferenceResponse, ItemError, ItemResult, Timing
from contracts.problem import Problem
from contracts.settings import Settings

# With a single photo its own fault is the whole answer; these are such faults.
_PHOTO_FAULTS = frozenset(
    {"invalid_image", "image_too_large", "payload_too_large", "unsupported_media_type"}
)
_SPARE_SECONDS = 5.0


class Remote:
    """A `cli.commands.classify.Classifier` that asks over HTTP.

    Args:
        settings: Key, deadline, and how many photos go into one request.
        url: The server.
    """

    def __init__(self, settings: Settings, url: str) -> None:
        self._settings = settings
        self._url = url

    def __call__(self, photos: list[Photo], question: Question) -> InferenceResponse:
        timeout = self._settings.default_timeout_ms / 1000 + _SPARE_SECONDS
        with httpx.Client(
            base_url=self._url,
            headers=key_headers(self._settings),
            timeout=timeout,
            trust_env=False,
        ) as client:
            step = self._settings.max_images
            parts = [
                self._ask(client, photos[start : start + step], question)
                for start in range(0, len(photos), step)
            ]
        return _joined(parts) if parts else empty(question.model or "")

    def _ask(
        self, client: httpx.Client, photos: list[Photo], question: Question
    ) -> InferenceResponse:
        parameters: dict[str, str | int] = {"top_k": question.top, "resize": question.resize}
        if question.model is not None:
            parameters["model"] = question.model
        # The server sniffs the real type; the name alone says that it is a file.
        files = [("image", (photo.name, photo.data, "image/*")) for photo in photos]
        with in_words(self._url):
            answer = client.post("/v1/classify", params=parameters, files=files)
            if answer.is_success:
                return InferenceResponse.model_validate_json(answer.content)
            return self._refused(answer, photos, question)

    def _refused(
        self, answer: httpx.Response, photos: list[Photo], question: Question
    ) -> InferenceResponse:
        problem = Problem.model_validate_json(answer.content)
        if len(photos) != 1 or problem.code not in _PHOTO_FAULTS:
            raise CommandError(problem.sentence)
        fault = ItemError(code=problem.code, detail=problem.detail)
        result = ItemResult.model_validate({"name": photos[0].name, "error": fault})
        return empty(question.model or "").model_copy(update={"results": [result]})


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

"""Classification in this very process, for machines where no server runs."""

import time
from dataclasses import dataclass

import numpy as np

from cli.commands.classify import Photo, Question, empty
from cli.commands.pulling import known_networks
from cli.output import CommandError, muffled, waiting
from contracts.errors import ModelNotFound, OpsinError
from contracts.inference.inference import InferenceResponse, ItemError, ItemResult, Timing
from contracts.queue.messages import Pixels
from contracts.settings import Settings
from models.catalog import Network, network_of
from models.images.decode import decode
from models.serving.outputs import predictions_of
from models.store.labels import labels_of
from models.weights.catalog import Weights, WeightsMissing

# The command takes what is on this machine as it is: its owner needs no guard against himself.
_BATCH = 16


@dataclass(frozen=True, slots=True)
class _Decoded:
    """What became of the photos before the network: pixels of the good, results of the bad."""

    pixels: list[Pixels]
    results: list[ItemResult]
    milliseconds: float


class Local:
    """A `cli.commands.classify.Classifier` that loads the network itself."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._weights = Weights.of(settings)

    def __call__(self, photos: list[Photo], question: Question) -> InferenceResponse:
        network = self._network(question.model)
        if not photos:
            return empty(network.name)
        started = time.perf_counter()
        decoded = self._decode(photos, network, question)
        if not decoded.pixels:
            return empty(network.name).model_copy(update={"results": decoded.results})
        with muffled() as console, waiting(console, f"Loading {network.name}"):
            from models.predictor import load_predictor  # TensorFlow

            threads = self._settings.worker_threads
            predictor = load_predictor(
                network, self._weights, threads=threads, max_batch_size=_BATCH
            )
            began = time.perf_counter()
            rows = iter(predictor.run("classify", np.stack(decoded.pixels)))
            compute = (time.perf_counter() - began) * 1000
        for result in decoded.results:
            if result.error is None:
                result.predictions = predictions_of(next(rows), labels_of(network), question.top)
        return InferenceResponse(
            model=network.name,
            version=predictor.version,
            batch_size=min(len(decoded.pixels), _BATCH),
            results=decoded.results,
            timing_ms=Timing(
                decode=decoded.milliseconds,
                queue=0,
                compute=compute,
                total=(time.perf_counter() - started) * 1000,
            ),
        )

    def _network(self, name: str | None) -> Network:
        """The named network, or the first of OPSIN_MODELS whose weights are here."""
        if name is not None:
            try:
                network = network_of(name)
                self._weights.find(network.weights)
            except (ModelNotFound, WeightsMissing) as error:
                raise CommandError(error.detail) from None
            if network.classes is None:
                raise CommandError(f"{name} has no classes; it tells faces apart.")
            return network
        reasons = []
        for network in known_networks(self._settings):
            if network.classes is None:
                continue
            try:
                self._weights.find(network.weights)
            except WeightsMissing as error:
                reasons.append(error.detail)
            else:
                return network
        raise CommandError("\n".join(reasons) or "OPSIN_MODELS names no network with classes.")

    def _decode(self, photos: list[Photo], network: Network, question: Question) -> _Decoded:
        pixels: list[Pixels] = []
        results: list[ItemResult] = []
        slowest = 0.0
        limit = self._settings.max_image_pixels
        for photo in photos:
            began = time.perf_counter()
            result = ItemResult.model_validate({"name": photo.name})
            try:
                picture = decode(
                    photo.data, network=network, resize=question.resize, max_pixels=limit
                )
            except OpsinError as error:
                result.error = ItemError(code=error.code, detail=error.detail)
            else:
                pixels.append(picture.pixels)
                result.width, result.height = picture.width, picture.height
            results.append(result)
            slowest = max(slowest, (time.perf_counter() - began) * 1000)
        return _Decoded(pixels, results, slowest)

"""The job behind `/v1/heatmap` with `Prefer: respond-async`, for heatmaps that take long."""

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from contracts.errors import InvalidImage, OpsinError
from contracts.inference.heatmap import HeatmapResponse, HeatmapResult
from contracts.inference.inference import ItemError, Timing
from contracts.jobs import Progress
from contracts.queue.explain_messages import PIXEL_METHODS, ExplainReply
from contracts.queue.messages import TOP_CLASS
from contracts.settings import Settings
from contracts.work import Work
from models.explain.answer import ExplainReplyBuilder
from models.explain.explainer import Explainer
from models.explain.heatmap_request import HeatmapJobRequest, input_file_name
from models.explain.results import EncodedReply, heatmap_layer, heatmap_of, region_of
from models.images.decode import DecodedImage, decode
from models.images.resize import Box, visible_box
from models.rendering.heatmap import render
from models.serving.devices import prepare_tensorflow
from models.serving.runtime import RuntimeOptions
from models.store.labels import Label, read_labels
from models.store.store import Store


def run(work: Work, settings: Settings) -> dict[str, Any]:
    """Compute the heatmaps of a `HeatmapJobRequest`; each image's overlay becomes an artifact.

    Returns:
        The `HeatmapResponse` that a request without `Prefer: respond-async` would have got.

    Raises:
        OpsinError: There is no such version or layer, or the only image cannot be read.
        WorkStoppedError: The job was cancelled.
    """
    began = time.monotonic()
    request = HeatmapJobRequest.model_validate(work.request)
    prepare_tensorflow(settings.worker_threads)
    work.progress(Progress(fraction=0, phase="model"))
    folder = Store(settings.store_home).path(request.model, request.version)
    options = replace(RuntimeOptions.of(settings), threads=settings.job_threads)
    explainer = Explainer(folder, max_batch_size=settings.max_batch_size, options=options)
    job = _Job(work, settings, request, explainer, read_labels(folder))
    count = len(request.names)
    results = []
    for index in range(count):
        results.append(job.explain(index))
        step = Progress(fraction=(index + 1) / count, phase="explain", step=index + 1, steps=count)
        work.progress(step)
    milliseconds = round((time.monotonic() - began) * 1000, 1)
    uses_pixels = request.question.method in PIXEL_METHODS
    layer = request.question.layer or explainer.manifest.explain_layer
    return HeatmapResponse(
        **(dict(results[0]) if count == 1 else {"results": results}),
        model=request.model,
        version=request.version,
        method=request.question.method,
        layer=None if uses_pixels else layer,
        timing_ms=Timing(decode=0, queue=0, compute=milliseconds, total=milliseconds),
    ).model_dump(mode="json", exclude_none=True)


@dataclass(frozen=True, slots=True)
class _Job:
    """Explains the images one after another."""

    work: Work
    settings: Settings
    request: HeatmapJobRequest
    explainer: Explainer
    labels: tuple[Label, ...]

    def explain(self, index: int) -> HeatmapResult:
        """The result of one image; an error becomes its result if there are several images."""
        name = self.request.names[index]
        try:
            data = self._data(index)
            image = decode(
                data,
                network=self.explainer.manifest,
                resize=self.request.resize,
                max_pixels=self.settings.max_image_pixels,
            )
            replies = [
                (vector, ExplainReply.model_validate_json(note))
                for vector, note in self._explain(index, image)
            ]
        except OpsinError as error:
            if len(self.request.names) == 1:
                raise
            return HeatmapResult(name=name, error=ItemError(code=error.code, detail=error.detail))
        box = self._visible_box(image)
        method = self.request.question.method
        drawn = render(
            data,
            [heatmap_layer(vector, reply, self.labels, method) for vector, reply in replies],
            size=(image.width, image.height),
            box=box,
            options=replace(self.request.look, compact=True),  # artifacts are stored
            max_pixels=self.settings.max_image_pixels,
        )
        self.work.artifact(f"heatmap-{index:03d}.png", "image/png", drawn)
        maps = [heatmap_of(vector, reply, self.labels, cached=False) for vector, reply in replies]
        return HeatmapResult(
            name=name,
            width=image.width,
            height=image.height,
            region=region_of(box),
            **({"maps": maps} if len(maps) > 1 else dict(maps[0])),
        )

    def _visible_box(self, image: DecodedImage) -> Box:
        size = (image.width, image.height)
        return visible_box(size, self.explainer.manifest, self.request.resize)

    def _data(self, index: int) -> bytes:
        try:
            return (self.work.folder / input_file_name(index)).read_bytes()
        except FileNotFoundError:
            raise InvalidImage("The image was empty or too large; send another one.") from None

    def _explain(self, index: int, image: DecodedImage) -> list[EncodedReply]:
        """One reply for each class, one after another, so that a cancel takes effect soon."""
        classes, replies = self.request.classes or [TOP_CLASS], list[EncodedReply]()
        count = len(self.request.names)

        def report(fraction: float) -> None:
            done = (index + (len(replies) + fraction) / len(classes)) / count
            self.work.progress(Progress(fraction=done, phase="explain", step=index, steps=count))

        layer = self.explainer.manifest.explain_layer
        builder = ExplainReplyBuilder(self.explainer, layer, self.work.check, report)
        pixels = image.pixels[np.newaxis]
        for class_index in classes:
            classes_array = np.array([class_index], np.int32)
            replies += builder.build(self.request.question, pixels, classes_array)
        return replies

"""The job behind `/v1/heatmap` with `Prefer: respond-async`: maps that take their time."""

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from contracts.errors import InvalidImage, OpsinError
from contracts.inference.heatmap import HeatmapResponse, HeatmapResult
from contracts.inference.inference import ItemError, Timing
from contracts.jobs import Progress
from contracts.queue.explain_messages import PIXEL_METHODS, MapNote
from contracts.queue.messages import TOP_CLASS
from contracts.settings import Settings
from contracts.work import Work
from models.explain.answer import Answering
from models.explain.explainer import Explainer
from models.explain.heatmap_request import HeatmapJob, input_name
from models.explain.results import Told, heatmap_of, layer_of, region_of
from models.images.decode import Picture, decode
from models.images.resize import seen_box
from models.rendering.heatmap import render
from models.serving.devices import prepare_tensorflow
from models.store.labels import Label, read_labels
from models.store.store import Store


def run(work: Work, settings: Settings) -> dict[str, Any]:
    """Make the maps of `work.request`, a `HeatmapJob`, and give the job a picture of each image.

    Returns:
        The `HeatmapResponse` that the client would have got at once.

    Raises:
        OpsinError: The version or the layer is not there, or the only image cannot be read.
        WorkStoppedError: The job was cancelled.
    """
    began = time.monotonic()
    request = HeatmapJob.model_validate(work.request)
    prepare_tensorflow(settings.worker_threads)
    work.progress(Progress(fraction=0, phase="load"))
    folder = Store(settings.store_home).path(request.model, request.version)
    explainer = Explainer(folder, max_batch_size=settings.max_batch_size)
    job = _Job(work, settings, request, explainer, read_labels(folder))
    count = len(request.names)
    results = []
    for at in range(count):
        results.append(job.explain(at))
        step = Progress(fraction=(at + 1) / count, phase="explain", step=at + 1, steps=count)
        work.progress(step)
    seconds = round((time.monotonic() - began) * 1000, 1)
    pixels = request.question.method in PIXEL_METHODS
    layer = request.question.layer or explainer.manifest.explain_layer
    return HeatmapResponse(
        **(dict(results[0]) if count == 1 else {"results": results}),
        model=request.model,
        version=request.version,
        method=request.question.method,
        layer=None if pixels else layer,
        timing_ms=Timing(decode=0, queue=0, compute=seconds, total=seconds),
    ).model_dump(mode="json", exclude_none=True)


@dataclass(frozen=True, slots=True)
class _Job:
    """What explaining one image after the other needs."""

    work: Work
    settings: Settings
    request: HeatmapJob
    explainer: Explainer
    labels: tuple[Label, ...]

    def explain(self, at: int) -> HeatmapResult:
        """One image's result, its error included where there are several."""
        name = self.request.names[at]
        try:
            data = self._data(at)
            limit = self.settings.max_image_pixels
            resize, target = self.request.resize, self.explainer.manifest
            picture = decode(data, network=target, resize=resize, max_pixels=limit)
            told = self._told(at, picture)
        except OpsinError as error:
            if len(self.request.names) == 1:
                raise
            return HeatmapResult(name=name, error=ItemError(code=error.code, detail=error.detail))
        height, width = target.input_size
        box = seen_box((picture.width, picture.height), (width, height), target.short_side, resize)
        notes = [MapNote.model_validate_json(note) for _, note in told]
        method = self.request.question.method
        layers = [
            layer_of(vector, note, self.labels, method)
            for (vector, _), note in zip(told, notes, strict=True)
        ]
        size = (picture.width, picture.height)
        look = replace(self.request.look, compact=True)  # it is kept
        drawn = render(data, layers, size=size, box=box, look=look, max_pixels=limit)
        self.work.artifact(f"heatmap-{at:03d}.png", "image/png", drawn)
        maps = [
            heatmap_of(vector, note, self.labels, cached=False)
            for (vector, _), note in zip(told, notes, strict=True)
        ]
        return HeatmapResult(
            name=name,
            width=picture.width,
            height=picture.height,
            region=region_of(box),
            **({"maps": maps} if len(maps) > 1 else dict(maps[0])),
        )

    def _data(self, at: int) -> bytes:
        try:
            return (self.work.folder / input_name(at)).read_bytes()
        except FileNotFoundError:
            raise InvalidImage("The image was empty or too large; send another one.") from None

    def _told(self, at: int, picture: Picture) -> list[Told]:
        """One answer a class, one after the other, so that a cancel is never far."""
        classes, told = self.request.classes or [TOP_CLASS], list[Told]()
        count = len(self.request.names)

        def within(fraction: float) -> None:
            done = (at + (len(told) + fraction) / len(classes)) / count
            self.work.progress(Progress(fraction=done, phase="explain", step=at, steps=count))

        layer = self.explainer.manifest.explain_layer
        answering = Answering(self.explainer, layer, self.work.check, within)
        pixels = picture.pixels[np.newaxis]
        for index in classes:
            chosen = np.array([index], np.int32)
            told += answering.answer(self.request.question, pixels, chosen)
        return told

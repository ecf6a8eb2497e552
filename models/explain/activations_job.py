"""The job behind `/v1/activations` with `Prefer: respond-async`."""

import time
from typing import Any

import numpy as np

from contracts.inference.heatmap import ActivationsResponse
from contracts.inference.inference import Timing
from contracts.jobs import Progress
from contracts.queue.explain_messages import ActivationsReply
from contracts.queue.messages import TOP_CLASS
from contracts.settings import Settings
from contracts.work import Work
from models.explain.activations_request import ActivationsJobRequest
from models.explain.answer import ExplainReplyBuilder
from models.explain.explainer import Explainer
from models.explain.heatmap_request import input_file_name
from models.explain.results import channels_of
from models.images.decode import decode
from models.rendering.channels import channels_png
from models.serving.devices import prepare_tensorflow
from models.store.store import Store


def run(work: Work, settings: Settings) -> dict[str, Any]:
    """Compute the maps of an `ActivationsJobRequest`; they become the job's artifacts.

    Returns:
        The `ActivationsResponse` without the maps, which may be millions of numbers: they are in
        `activations.json`, and drawn in `activations.png`.

    Raises:
        OpsinError: There is no such version or layer, or the image cannot be read.
        WorkStoppedError: The job was cancelled.
    """
    began = time.monotonic()
    request = ActivationsJobRequest.model_validate(work.request)
    data = (work.folder / input_file_name(0)).read_bytes()
    prepare_tensorflow(settings.worker_threads)
    work.progress(Progress(fraction=0, phase="model"))
    folder = Store(settings.store_home).path(request.model, request.version)
    explainer = Explainer(folder, max_batch_size=1)
    manifest = explainer.manifest
    image = decode(
        data, network=manifest, resize=request.resize, max_pixels=settings.max_image_pixels
    )
    builder = ExplainReplyBuilder(explainer, manifest.explain_layer, work.check)
    classes = np.array([TOP_CLASS], np.int32)
    ((vector, note),) = builder.build(request.question, image.pixels[np.newaxis], classes)
    reply = ActivationsReply.model_validate_json(note)
    shown = f"{len(reply.channels)} of {reply.total} channels"
    title = f"{request.model} version {request.version}, {reply.layer}: {shown}"
    png = channels_png(vector, reply, request.colormap, title)
    work.artifact("activations.png", "image/png", png)
    milliseconds = round((time.monotonic() - began) * 1000, 1)
    response = ActivationsResponse(
        model=request.model,
        version=request.version,
        layer=reply.layer,
        channels=reply.total,
        shape=list(reply.shape),
        maps=channels_of(vector, reply),
        timing_ms=Timing(decode=0, queue=0, compute=milliseconds, total=milliseconds),
    )
    work.artifact("activations.json", "application/json", response.model_dump_json().encode())
    work.progress(Progress(fraction=1, phase="explain"))
    return response.model_dump(mode="json", exclude={"maps"})

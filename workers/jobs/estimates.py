"""The memory that each kind of job will need; see `workers.jobs.handlers.MEMORY`."""

from datetime import UTC, datetime

from contracts.create.requests import (
    CONTENT_FILE,
    DREAM_SIDE,
    IMAGE_FILE,
    DreamRequest,
    StyleTransferRequest,
    style_file,
)
from contracts.errors import InvalidImage
from contracts.inference.evaluation import EvaluationRequest
from contracts.settings import MIB, Settings
from contracts.training.datasets import DatasetInfo
from contracts.training.sweeps import SweepRequest
from contracts.training.trainings import TrainingRequest
from contracts.work import Work
from database.datasets import DatasetRows
from database.engine import open_engine
from models.create.dream_source import input_pixels
from models.create.images import scaled_size
from models.create.memory import check_style_memory, check_tiled_memory
from models.create.style.size import result_size
from models.create.style.weights import available_network
from models.images.decode import upright_size
from models.images.resize import Size, within
from models.memory.machine import memory_limit
from models.store.store import Store
from models.training.memory import check_memory, estimate, images_of, probability_bytes
from models.weights.catalog import Weights


def training_bytes(work: Work, settings: Settings) -> int:
    """Of a training; raises `ValidationFailed` if it could never fit."""
    request = TrainingRequest.model_validate(work.request)
    limit = memory_limit(settings.training_memory_mb)
    if request.subjects is not None:
        return check_memory(request, len(request.subjects), limit)
    info = _dataset(request.dataset_id, settings)
    classes = len(request.classes or info.classes)
    return check_memory(request, classes, limit, images_of(request, info))


def sweep_bytes(work: Work, settings: Settings) -> int:
    """Of the largest training of a sweep; those that do not fit fail one by one."""
    trainings = SweepRequest.model_validate(work.request).trainings
    requests = [TrainingRequest.model_validate(planned.request) for planned in trainings]
    info = _dataset(requests[0].dataset_id, settings)
    return max(
        estimate(request, len(request.classes or info.classes), images_of(request, info)).total
        for request in requests
    )


def _dataset(dataset_id: str | None, settings: Settings) -> DatasetInfo:
    engine = open_engine(settings.database)
    try:
        rows = DatasetRows(engine, lambda: datetime.now(UTC))
        return rows.get(dataset_id or "")
    finally:
        engine.dispose()


def style_transfer_bytes(work: Work, settings: Settings) -> int:
    """Of a style transfer; raises `ValidationFailed` if it could never fit."""
    stored = dict(work.request)
    count = int(stored.pop("styles", 1))
    request = StyleTransferRequest.model_validate(stored)
    limit = memory_limit(settings.training_memory_mb)
    content = _image_size(work, CONTENT_FILE, settings)
    if request.method == "fast":
        return check_tiled_memory(result_size(request, content, None), limit)
    network = available_network(Weights.of(settings), request.network)
    size = result_size(request, content, network)
    styles = [_image_size(work, style_file(index), settings) for index in range(count)]
    return check_style_memory(size, network, limit, request.style_scale, styles)


def dream_bytes(work: Work, settings: Settings) -> int:
    """Of a dream; raises `ValidationFailed` if it could never fit."""
    request = DreamRequest.model_validate(work.request)
    image = _image_size(work, IMAGE_FILE, settings)
    size = scaled_size(image, request.size) if request.size else within(image, DREAM_SIDE)
    limit = memory_limit(settings.training_memory_mb)
    return check_tiled_memory(size, limit, request.tile_size, input_pixels(request, settings))


def _image_size(work: Work, name: str, settings: Settings) -> Size:
    try:
        data = (work.folder / name).read_bytes()
    except FileNotFoundError:
        raise InvalidImage("An image of this job was lost. Send the request again.") from None
    return upright_size(data, max_pixels=settings.max_image_pixels)


def evaluation_bytes(work: Work, settings: Settings) -> int:
    """Of an evaluation of one version or two."""
    request = EvaluationRequest.model_validate(work.request)
    store, model = Store(settings.store_home), request.model
    asked = [one for one in (request.version, request.against) if one is not None]
    manifests = [store.manifest(model, store.resolve(model, one)) for one in asked]
    images = sum(_dataset(request.dataset_id, settings).splits.values())
    answers = sum(probability_bytes(images, one.classes or 0) for one in manifests)
    return network_bytes(work, settings) + answers


def network_bytes(_work: Work, settings: Settings) -> int:
    """Of a job that loads a network and runs or explains it on a few images at a time.

    Filters of VGG16 at 512 pixels had 1.6 GB at most, half of it files that other processes share;
    a heatmap, evaluation or quantization of SqueezeNet had 0.9 GB, while small images were decoded.
    """
    return max(1536 * MIB, 704 * MIB + _decoding_bytes(settings))


def image_bytes(_work: Work, settings: Settings) -> int:
    """Of a job that reads images or a video and at most finds faces in them.

    It took 0.4 GB with an image of the most pixels that are allowed, in a format that needs little.
    """
    return 192 * MIB + _decoding_bytes(settings)


def _decoding_bytes(settings: Settings) -> int:
    """Of the largest image while it is decoded, see `models.images.decode`."""
    return 16 * settings.max_image_pixels


def no_bytes(_work: Work, _settings: Settings) -> int:
    """Of an enrollment, for which a person waits: it does not wait, and counts as it grows."""
    return 0

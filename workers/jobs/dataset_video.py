"""The video job of datasets: adds frames of a video to one class, all of them or none.

The result is remembered under the job's id in the transaction that adds the frames. If the process
is killed after it, the next attempt finds the result and adds nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from math import ceil
from typing import Any

from contracts.errors import Conflict, InvalidVideo, PayloadTooLarge
from contracts.jobs import Progress
from contracts.settings import MIB, Settings
from contracts.training.datasets import VIDEO, VideoFrames
from contracts.work import Work
from database.datasets import DatasetRows
from database.engine import open_engine
from database.idempotency import IdempotencyKey
from database.jobs.jobs import Jobs
from models.datasets.addition import NewImage, NewImages
from models.datasets.store import DatasetStore
from models.datasets.video_frames import FrameCounts, take_images
from models.faces.detection.finder import open_finder
from models.weights.catalog import Weights

_MAX_TAKEN_BYTES = 1024 * MIB
"""All images are in memory until they are added. A thousand of a real video have a quarter of that;
noise in 4K, which a video of a few megabytes can show for its whole length, would have ten."""


def run(work: Work, settings: Settings) -> dict[str, Any]:
    """Add frames of the job's file `video`; `work.request` is a `VideoFrames`.

    Returns:
        ``{"dataset", "added", "frames": {"read", "left_out"}}``.

    Raises:
        DatasetNotFound: It was deleted in the meantime.
        Conflict: A training uses the dataset.
        InvalidVideo: The video cannot be read, or no image could be taken from it.
        PayloadTooLarge: The images take too much memory, or the dataset would exceed its limits.
        WeightsMissing: Faces cannot be found on this machine.
        WorkStoppedError: The job was cancelled. Nothing was added.
    """
    frames = VideoFrames.model_validate(work.request)
    engine = open_engine(settings.database)
    try:
        rows = DatasetRows(engine, _now)
        key = IdempotencyKey(work.job_id, "frames", "0" * 64)
        if earlier := rows.stored_response(key):
            return earlier.body
        images, counts = _take(work, frames, settings)
        taken = _Taken(frames, images, counts, Jobs(engine, _now).needs_dataset)
        return _add(work, DatasetStore.of(settings), rows, key, taken)
    finally:
        engine.dispose()


@dataclass(frozen=True, slots=True)
class _Taken:
    """The images of a video, and where they go."""

    frames: VideoFrames
    images: list[NewImage]
    counts: FrameCounts
    in_use: Callable[[str], bool]


def _take(
    work: Work, frames: VideoFrames, settings: Settings
) -> tuple[list[NewImage], FrameCounts]:
    finder = None
    if frames.region == "face":
        finder = open_finder(Weights.of(settings), threads=settings.job_threads)
    counts = FrameCounts()
    images: list[NewImage] = []
    video, size = (work.folder / VIDEO).read_bytes(), 0
    for image in take_images(video, frames, settings, finder, check=work.check, counts=counts):
        images.append(image)
        size += len(image.data)
        if size > _MAX_TAKEN_BYTES:
            raise PayloadTooLarge(
                f"The first {len(images)} images have more than {_MAX_TAKEN_BYTES // MIB} MB. Send "
                "a smaller max_frames or rate, or a smaller region."
            )
        fraction = 0.9 * len(images) / frames.max_frames
        work.progress(Progress(fraction=fraction, phase="frames", step=len(images)))
    if not images:
        reasons = ", ".join(f"{count} {reason}" for reason, count in counts.left_out.items())
        raise InvalidVideo(
            f"No image could be taken from the video's {counts.read} frames ({reasons or 'none'})."
        )
    return images, counts


def _add(
    work: Work, store: DatasetStore, rows: DatasetRows, key: IdempotencyKey, taken: _Taken
) -> dict[str, Any]:
    frames = taken.frames
    target = frames.target
    with store.lock(target):
        if taken.in_use(target):
            raise Conflict("A training uses the dataset. Wait for it, then send the video again.")
        rows.repair(target, store.revision(target), lambda: store.own_listing(target))
        if earlier := rows.stored_response(key):
            return earlier.body
        # A second apart, training and the other splits show different images.
        new = NewImages(taken.images, frames.label, frames.split, video_gap=ceil(frames.rate))
        with store.addition(target, new) as added:
            left_out = dict(taken.counts.left_out)
            if between := len(taken.images) - len(added.files):
                left_out["between_splits"] = between
            result = {
                "dataset": added.info.model_dump(mode="json"),
                "added": sum(file.status == "admitted" for file in added.files),
                "frames": {"read": taken.counts.read, "left_out": left_out},
            }
            added.stage(key.answer(result, _now()))
            work.check()
            rows.change(
                added.info,
                added.before,
                added.changed,
                added.publish,
                idempotency=key,
                body=result,
            )
    return result


def _now() -> datetime:
    return datetime.now(UTC)

"""The TensorBoard log of a training, written while it runs.

Training, validation and test are runs with the same tags, as Keras writes them, so that TensorBoard
draws their curves into one chart.

A log is bounded: of a long training, later points within epochs and histograms are left out more
and more, and all of them while the disk has no room for them. If the disk is full, the log is
given up, and the training goes on.
"""

import io
import logging
import shutil
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tensorboard.plugins.histogram.metadata import create_summary_metadata

from contracts.errors import DiskUnusable
from contracts.failures import disk_error
from contracts.files import has_room

P = ParamSpec("P")

_LOG = logging.getLogger(__name__)

_BUCKETS = 30  # as many as TensorBoard's own
_RUNS = (("training", ""), ("validation", "val_"))
# Of a billion batches, 125,000 are kept: 18 MB.
_FIRST_BATCHES, _MORE_BATCHES = 50_000, 5_000
_FIRST_HISTOGRAMS, _MORE_HISTOGRAMS = 100, 20
_MOST_BYTES = 1024 * 1024  # of the histograms of an epoch


@dataclass(slots=True)
class _Thinning:
    """Keeps the first of a series, then ever fewer of it.

    Attributes:
        first: How many of the first are kept.
        more: After so many further ones, the distance between two doubles.
        distance: Between two that are kept.
        passed: Since the last one that was kept.
        left: How many are kept at this distance.
    """

    first: int
    more: int
    distance: int = 1
    passed: int = 0
    left: int = 0

    def __post_init__(self) -> None:
        self.left = self.first

    def keeps(self) -> bool:
        """Whether the next one is kept."""
        self.passed += 1
        if self.passed < self.distance:
            return False
        self.passed = 0
        self.left -= 1
        if not self.left:
            self.distance, self.left = 2 * self.distance, self.more
        return True


def _while_the_disk_has_room(
    write: Callable[Concatenate["EventLog", P], None],
) -> Callable[Concatenate["EventLog", P], None]:
    """Give the log up if the disk is full, rather than the training."""

    @wraps(write)
    def guarded(log: "EventLog", /, *args: P.args, **kwargs: P.kwargs) -> None:
        if log.is_given_up:
            return
        try:
            write(log, *args, **kwargs)
        except (tf.errors.OpError, OSError) as error:
            if not isinstance(disk_error(error), DiskUnusable):
                raise
            log.is_given_up = True
            _LOG.warning("the log of the training is given up: %s", error)

    return guarded


class EventLog:
    """The log of one attempt. It empties the folder: a resumed training logs all epochs again.

    Args:
        folder: Of the log.
        kept_bytes: Of the disk, which points within epochs and histograms leave free.

    Attributes:
        is_given_up: Whether the disk was full; what had been logged before remains.
    """

    def __init__(self, folder: Path, kept_bytes: int = 0) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        self.is_given_up = False
        self._folder = folder
        self._writers = {
            name: tf.summary.create_file_writer(str(folder / name)) for name, _ in _RUNS
        }
        self._steps: dict[tuple[Any, Any], int] = {}
        self._kept_bytes = kept_bytes
        self._batches = _Thinning(_FIRST_BATCHES, _MORE_BATCHES)
        self._histograms = _Thinning(_FIRST_HISTOGRAMS, _MORE_HISTOGRAMS)

    @_while_the_disk_has_room
    def row(self, row: Mapping[str, Any]) -> None:
        """Log an epoch's numbers, counting epochs over all phases."""
        key = (row.get("phase"), row.get("epoch"))
        step = self._steps.setdefault(key, len(self._steps) + 1)
        numbers = {
            name: float(value)
            for name, value in row.items()
            if name not in {"epoch", "stopped_early"} and isinstance(value, int | float)
        }
        for run, prefix in _RUNS:
            scalars = {
                name.removeprefix("val_"): value
                for name, value in numbers.items()
                if name.startswith("val_") == bool(prefix)
            }
            with self._writers[run].as_default(step):
                for name, value in scalars.items():
                    tf.summary.scalar(name, value)
            self._writers[run].flush()

    @_while_the_disk_has_room
    def graph(self, model: keras.Model) -> None:
        """Log the graph of a network, its layers as name scopes."""
        shape = (1, *model.inputs[0].shape[1:])
        traced = tf.function(lambda images: model(images, training=False)).get_concrete_function(
            tf.TensorSpec(shape, model.inputs[0].dtype)
        )
        with self._writers["training"].as_default(0):
            tf.summary.graph(traced.graph)

    @_while_the_disk_has_room
    def batch(self, steps: int, loss: float, accuracy: float) -> None:
        """Log a batch's numbers after a number of steps, unless there are too many."""
        if not self._batches.keeps() or not self._has_room():
            return
        with self._writers["training"].as_default(steps):
            tf.summary.scalar("batch/loss", loss)
            tf.summary.scalar("batch/accuracy", accuracy)
        self._writers["training"].flush()

    @_while_the_disk_has_room
    def weights(self, model: keras.Model) -> None:
        """Log histograms of the weights that are trained, after the last epoch that was logged.

        Those of some epochs are left out if there are many.
        """
        if not self._histograms.keeps() or not self._has_room():
            return
        with self._writers["training"].as_default(len(self._steps)):
            for variable in model.trainable_variables:
                buckets = _buckets(tf.convert_to_tensor(variable.value).numpy())
                tf.summary.write(variable.path, buckets, metadata=create_summary_metadata(None, ""))
        self._writers["training"].flush()

    @_while_the_disk_has_room
    def tested(self, loss: float, accuracy: float) -> None:
        """Log the numbers of the test images after the last epoch that was logged."""
        if "test" not in self._writers:
            self._writers["test"] = tf.summary.create_file_writer(str(self._folder / "test"))
        with self._writers["test"].as_default(len(self._steps)):
            tf.summary.scalar("loss", loss)
            tf.summary.scalar("accuracy", accuracy)
        self._writers["test"].flush()

    @_while_the_disk_has_room
    def image(self, name: str, png: bytes) -> None:
        """Log an image."""
        with self._writers["training"].as_default(len(self._steps)):
            tf.summary.image(name, tf.io.decode_png(png, channels=3)[None])

    @_while_the_disk_has_room
    def text(self, name: str, markdown: str) -> None:
        """Log a text."""
        with self._writers["training"].as_default(0):
            tf.summary.text(name, markdown)

    def _has_room(self) -> bool:
        return not self._kept_bytes or has_room(self._folder, _MOST_BYTES, self._kept_bytes)

    @_while_the_disk_has_room
    def _close(self, writer: tf.summary.SummaryWriter) -> None:
        writer.close()

    def close(self) -> bytes:
        """Close the log.

        Returns:
            A zip of it, for clients that see the job only through the API.
        """
        for writer in self._writers.values():
            self._close(writer)
        archive_bytes = io.BytesIO()
        with zipfile.ZipFile(archive_bytes, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(self._folder.rglob("*tfevents*")):
                archive.write(path, path.relative_to(self._folder).as_posix())
        return archive_bytes.getvalue()


def _buckets(weights: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """The left edge, the right edge and the count of each bucket: (30, 3).

    `tf.summary.histogram` finds the same, but needs 30 float64 for each weight: 24 GB for the dense
    layer of `cnn_pets`.
    """
    finite = weights if np.isfinite(weights).all() else weights[np.isfinite(weights)]
    if not finite.size:
        return np.zeros((_BUCKETS, 3))
    low, high = float(finite.min()), float(finite.max())
    edges = np.linspace(low, high, _BUCKETS + 1)
    counts = np.zeros(_BUCKETS)
    if low == high:
        counts[-1] = finite.size
    else:
        counts[:] = np.histogram(finite, _BUCKETS, (low, high))[0]
    return np.stack([edges[:-1], edges[1:], counts], axis=1)

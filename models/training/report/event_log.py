"""The TensorBoard log of a training, written while it runs.

Training and validation are two runs with the same tags, as Keras writes them, so that TensorBoard
draws both curves into one chart.
"""

import io
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

_RUNS = (("training", ""), ("validation", "val_"))


class EventLog:
    """The log of one attempt. It empties the folder: a resumed training logs all epochs again."""

    def __init__(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        self._folder = folder
        self._writers = {
            name: tf.summary.create_file_writer(str(folder / name)) for name, _ in _RUNS
        }
        self._steps: dict[tuple[Any, Any], int] = {}

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

    def image(self, name: str, png: bytes) -> None:
        """Log an image."""
        with self._writers["training"].as_default(len(self._steps)):
            tf.summary.image(name, tf.io.decode_png(png, channels=3)[None])

    def text(self, name: str, markdown: str) -> None:
        """Log a text."""
        with self._writers["training"].as_default(0):
            tf.summary.text(name, markdown)

    def close(self) -> bytes:
        """Close the log.

        Returns:
            A zip of it, for clients that see the job only through the API.
        """
        for writer in self._writers.values():
            writer.close()
        archive_bytes = io.BytesIO()
        with zipfile.ZipFile(archive_bytes, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(self._folder.rglob("*tfevents*")):
                archive.write(path, path.relative_to(self._folder).as_posix())
        return archive_bytes.getvalue()

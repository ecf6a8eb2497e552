"""The checkpoint of a training: one file, replaced atomically.

It holds arrays and numbers only, no pickle. A fingerprint in the file identifies the training:
another request, dataset or library version does not resume from it.
"""

import contextlib
import errno
import logging
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from contracts.files import flush_entries
from models.training.loop.state import TrainingState

_LOG = logging.getLogger(__name__)

Arrays = Mapping[str, npt.NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a training needs to resume exactly where it stopped.

    Attributes:
        state: Position, history and early-stopping counters.
        learned: The trained variables by name.
        optimizer: The optimizer's variables by name.
        best: The trained variables of the best epoch by name; empty during the first epoch.
    """

    state: TrainingState
    learned: Arrays
    optimizer: Arrays
    best: Arrays


class CheckpointFile:
    """Reads and writes the checkpoint of one training.

    Args:
        path: The file.
        fingerprint: Identifies the training.
    """

    def __init__(self, path: Path, fingerprint: str) -> None:
        self._path = path
        self._fingerprint = fingerprint

    def write(self, checkpoint: Checkpoint) -> None:
        """Replace the file. After a kill or a power cut, either the old or the new one is there.

        If the disk is full, the old one is kept: losing it would cost more than going on without
        a new one.
        """
        try:
            self._replace(checkpoint)
        except OSError as error:
            if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
                raise
            _LOG.warning("no checkpoint is written: %s", error.strerror)
            with contextlib.suppress(OSError):
                self._path.with_suffix(".tmp").unlink(missing_ok=True)

    def _replace(self, checkpoint: Checkpoint) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        arrays = {
            f"{part}/{name}": array
            for part in ("learned", "optimizer", "best")
            for name, array in getattr(checkpoint, part).items()
        }
        temporary = self._path.with_suffix(".tmp")
        with temporary.open("wb") as file:
            np.savez(
                file,
                training=_bytes(self._fingerprint),
                state=_bytes(checkpoint.state.model_dump_json()),
                **arrays,
            )
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._path)
        flush_entries(self._path.parent)

    def read(self) -> Checkpoint | None:
        """The last checkpoint; None if there is none that this training could resume from."""
        try:
            with self._path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                if _text(file["training"]) != self._fingerprint:
                    return None
                state = TrainingState.model_validate_json(_text(file["state"]))
                parts: dict[str, dict[str, npt.NDArray[np.generic]]] = {
                    "learned": {},
                    "optimizer": {},
                    "best": {},
                }
                for key in file.files:
                    part, slash, name = key.partition("/")
                    if slash:
                        parts[part][name] = file[key]
        except (OSError, ValueError, KeyError, EOFError, ValidationError, zipfile.BadZipFile):
            return None
        return Checkpoint(state, **parts)


def _bytes(text: str) -> npt.NDArray[np.uint8]:
    return np.frombuffer(text.encode(), np.uint8)


def _text(array: npt.NDArray[np.uint8]) -> str:
    return array.tobytes().decode()

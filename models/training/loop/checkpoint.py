"""Where a killed training goes on: one file that is replaced whole or not at all.

Arrays and numbers only, no pickle. The file says for which training it is: another request, data
set or library finds nothing there that it could mistake for its own.
"""

import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from models.store.staging import flush_entries
from models.training.loop.state import State

Arrays = Mapping[str, npt.NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a training needs to go on as if nothing had happened.

    Attributes:
        state: The numbers.
        learned: The variables that change, by name.
        optimizer: The optimizer's variables, by name.
        best: The best epoch's variables, by name; empty before the first epoch's end.
    """

    state: State
    learned: Arrays
    optimizer: Arrays
    best: Arrays


class CheckpointFile:
    """The checkpoint of one training.

    Args:
        path: The file.
        training: What tells this training from all others.
    """

    def __init__(self, path: Path, training: str) -> None:
        self._path = path
        self._training = training

    def write(self, checkpoint: Checkpoint) -> None:
        """Replace what is there. After a kill, or a power cut, the old or the new is there."""
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
                training=_bytes(self._training),
                state=_bytes(checkpoint.state.model_dump_json()),
                **arrays,
            )
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._path)
        flush_entries(self._path.parent)

    def read(self) -> Checkpoint | None:
        """What was last written; None if there is nothing that this training could go on from."""
        try:
            with self._path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                if _text(file["training"]) != self._training:
                    return None
                state = State.model_validate_json(_text(file["state"]))
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

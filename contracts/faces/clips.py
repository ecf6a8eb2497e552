"""A login's video on its way to a worker, and what the worker makes of it.

The item of the lane `clip` carries the file itself in place of pixels; no process that talks to
clients ever decodes one. The vector that comes back is the face's embedding over the neutral
frames, of length 1, and empty unless the clip shows a live person who did what was asked.
"""

from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from contracts.errors import InvalidVideo
from contracts.faces.faces import Face
from contracts.faces.liveness import Action, Liveness
from contracts.queue.messages import Pixels

_ROW = 4096 * 3  # bytes; 65,535 such rows are more than any video may have


class ClipAsk(BaseModel):
    """What is asked of a video on the lane `clip`."""

    model_config = ConfigDict(frozen=True)

    task: Literal["clip"] = "clip"
    size: int = Field(ge=1, description="Bytes of the file.")
    actions: tuple[Action, ...] = Field(description="Of the challenge, in order.")
    subject_id: str = Field(description="Whose earlier clips it must not be.")
    challenge_id: str = Field(description="Tells this clip from earlier ones.")

    def pack(self) -> bytes:
        """As it travels in the item's note."""
        return self.model_dump_json().encode()


class ClipNote(BaseModel):
    """What was seen in the clip."""

    model_config = ConfigDict(frozen=True)

    liveness: Liveness
    frames: int = Field(ge=0, description="Looked at.")
    matched: int = Field(ge=0, description="Neutral frames that the embedding was made of.")
    face: Face | None = Field(description="The best of them; boxes in pixels of the frame.")

    def pack(self) -> bytes:
        """As it travels in the reply's note."""
        return self.model_dump_json().encode()


def as_pixels(video: bytes) -> Pixels:
    """A file in the shape of a picture, padded with zeros to whole rows."""
    rows = max(1, -(-len(video) // _ROW))
    if rows > 0xFFFF:
        raise InvalidVideo("The video is too large. Send a smaller one.")
    padded = np.zeros(rows * _ROW, np.uint8)
    padded[: len(video)] = np.frombuffer(video, np.uint8)
    return padded.reshape(rows, _ROW // 3, 3)


def as_video(pixels: Pixels, size: int) -> memoryview:
    """The file again.

    Raises:
        ValueError: It is shorter than `size`.
    """
    if size > pixels.size:
        raise ValueError("a clip of the wrong length")
    return np.ascontiguousarray(pixels).data.cast("B")[:size]

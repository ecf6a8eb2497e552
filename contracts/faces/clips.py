"""Messages of the queue `clip`: the video of a login goes to a worker, a verdict comes back.

The queue item carries the video file in place of pixels, so that no process that talks to clients
decodes one. The reply's vector is the embedding of the face over the neutral frames, of unit
length, and empty unless the clip shows a live person who did what was asked.
"""

from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from contracts.errors import InvalidVideo
from contracts.faces.faces import Face
from contracts.faces.liveness import Action, Liveness
from contracts.queue.messages import Pixels

_ROW = 4096 * 3  # bytes; a message has at most 65,535 such rows, more than any video needs


class ClipRequest(BaseModel):
    """Request for one video."""

    model_config = ConfigDict(frozen=True)

    task: Literal["clip"] = "clip"
    size: int = Field(ge=1, description="Bytes of the file.")
    actions: tuple[Action, ...] = Field(description="Of the challenge, in order.")
    subject_id: str = Field(description="The video must not repeat an earlier one of this subject.")
    challenge_id: str = Field(description="Distinguishes this clip from earlier ones.")

    def pack(self) -> bytes:
        """Encode for the item's note."""
        return self.model_dump_json().encode()


class ClipReply(BaseModel):
    """What a worker saw in the video."""

    model_config = ConfigDict(frozen=True)

    liveness: Liveness
    frames: int = Field(ge=0, description="Frames analyzed.")
    matched: int = Field(ge=0, description="Neutral frames that the embedding was computed from.")
    face: Face | None = Field(description="The best of them; boxes in pixels of the frame.")

    def pack(self) -> bytes:
        """Encode for the reply's note."""
        return self.model_dump_json().encode()


def pack_video(video: bytes) -> Pixels:
    """Put a file into an array shaped like an image, padded with zeros to whole rows.

    Raises:
        InvalidVideo: The file is too large for a message.
    """
    rows = max(1, -(-len(video) // _ROW))
    if rows > 0xFFFF:
        raise InvalidVideo("The video is too large. Send a smaller one.")
    padded = np.zeros(rows * _ROW, np.uint8)
    padded[: len(video)] = np.frombuffer(video, np.uint8)
    return padded.reshape(rows, _ROW // 3, 3)


def unpack_video(pixels: Pixels, size: int) -> memoryview:
    """Return the file that `pack_video` put into an array.

    Raises:
        ValueError: The array holds fewer than `size` bytes.
    """
    if size > pixels.size:
        raise ValueError("the video is shorter than its size")
    return np.ascontiguousarray(pixels).data.cast("B")[:size]

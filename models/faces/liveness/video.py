"""Decodes the frames of a clip in a separate process with few resources and permissions.

Frames arrive one at a time, upright and reduced, so that only one is in memory, however long the
clip is. Closing the iterator ends the process. The file is passed in memory and never stored.
"""

import json
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import numpy as np

from contracts.errors import InvalidVideo, PayloadTooLarge
from contracts.queue.messages import Pixels
from contracts.settings import MIB, Settings
from models.confined_process import ConfinedProcess, NoOutputError
from models.faces.liveness import video_child
from models.faces.liveness.video_child import RECORD
from models.faces.liveness.video_formats import ACCEPTED, VideoFormat, detect_video_format
from models.faces.liveness.video_structure import is_cut_off, is_endless

_CHILD = Path(video_child.__file__)
_NOT_DECODED = (
    "The video cannot be decoded within the memory and time limits. Record it again in 720p."
)
FAULTS = {
    "unreadable": f"The video cannot be read. Check that it was sent completely, as {ACCEPTED}, "
    "recorded in H.264, H.265, VP8, VP9, AV1 or Motion JPEG.",
    "no_frames": "The video has no frames. Record it again.",
    "truncated": "The video is incomplete. Send the whole file.",
    "too_many_frames": "The video has too many frames. Record at most 120 a second.",
    "too_many_parts": "The video consists of too many parts that hold no frames. Record it again.",
    "too_fast": "The video has too many frames a second. Record at most 240; 30 are plenty.",
    "too_many_pixels": "The video's frames are too large. Record in 4K at most; 720p is plenty.",
    "too_long": "The video is longer than {seconds:g} seconds. Send a shorter one.",
    "limits": _NOT_DECODED,
}


@dataclass(frozen=True, slots=True)
class VideoLimits:
    """Limits of a clip, and of the resources for decoding it.

    Attributes:
        bytes: Of the file.
        seconds: Length of the clip.
        frames: Number of frames in the file.
        pixels: Of one frame; 4K has 8.3 million.
        long_side: Length in pixels to which frames are reduced.
        fps: Frames per second that are returned; others are skipped.
        memory_bytes: Address space of the decoder.
        cpu_seconds: CPU time of the decoder.
        wait_seconds: Total time that the reader waits for the decoder.
    """

    bytes: int = 64 * MIB
    seconds: float = 30.0
    frames: int = 3600
    pixels: int = 4096 * 2304
    long_side: int = 640
    fps: float = 15.0
    memory_bytes: int = 1536 * MIB
    cpu_seconds: int = 60
    wait_seconds: float = 60.0

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The limits of this installation."""
        return cls(bytes=settings.max_video_bytes, seconds=settings.max_video_seconds)


@dataclass(frozen=True, slots=True)
class VideoFrame:
    """One frame.

    Attributes:
        time: Seconds since the first frame of the clip.
        pixels: RGB, upright, shape (height, width, 3), uint8.
    """

    time: float
    pixels: Pixels


def read_frames(
    data: bytes | memoryview, limits: VideoLimits, check: Callable[[], None] | None = None
) -> Generator[VideoFrame, None, None]:
    """The frames of a clip, in order. Close the iterator to stop early.

    Args:
        data: The file as it was sent.
        check: Called repeatedly while waiting for the decoder; it may let other work run first, or
            raise, which ends the decoder.

    Raises:
        PayloadTooLarge: The file has too many bytes.
        InvalidVideo: It is not a video, damaged, too long or too large; the detail says what to do.
    """
    check_video(data, limits)
    video_format = detect_video_format(data)
    if is_cut_off(data, video_format):
        raise InvalidVideo(FAULTS["truncated"])
    if is_endless(data, video_format):
        raise InvalidVideo(FAULTS["too_many_parts"])
    with closing(_Decoder(data, video_format, limits, check)) as decoder:
        yield from decoder.frames()


def check_video(data: bytes | memoryview, limits: VideoLimits) -> None:
    """Check what can be checked without decoding.

    Raises:
        PayloadTooLarge: The file has too many bytes.
        InvalidVideo: It is not in an accepted container format.
    """
    if len(data) > limits.bytes:
        raise PayloadTooLarge(f"A video may have {limits.bytes:,} bytes; send a smaller one.")
    detect_video_format(data)


class _Decoder:
    """The decoder process."""

    def __init__(
        self,
        data: bytes | memoryview,
        video_format: VideoFormat,
        limits: VideoLimits,
        check: Callable[[], None] | None,
    ) -> None:
        self._limits = limits
        self._process = ConfinedProcess(
            _CHILD,
            data,
            [video_format.demuxer, json.dumps(asdict(limits))],
            wait_seconds=limits.wait_seconds,
            check=check,
        )

    def frames(self) -> Iterator[VideoFrame]:
        """All frames. They are validated, because a compromised decoder may send anything."""
        limits, last = self._limits, -1.0
        for _ in range(limits.frames + 1):
            kind, seconds, height, width, size = RECORD.unpack(self._read(RECORD.size))
            if kind == video_child.END:
                return
            if kind == video_child.FAULT:
                raise _fault_error(self._read(min(size, 64)), limits)
            is_valid = kind == video_child.FRAME and last < seconds <= limits.seconds
            if not is_valid or size != height * width * 3 or max(height, width) > limits.long_side:
                raise InvalidVideo(_NOT_DECODED)
            last = seconds
            pixels = np.frombuffer(self._read(size), np.uint8).reshape(height, width, 3)
            yield VideoFrame(seconds, pixels)
        raise InvalidVideo(FAULTS["too_many_frames"])

    def close(self) -> None:
        """Kill the process."""
        self._process.close()

    def _read(self, size: int) -> bytearray:
        """Read exactly `size` bytes.

        Raises:
            InvalidVideo: They did not arrive, or not in time.
        """
        try:
            return self._process.read(size)
        except NoOutputError:
            raise InvalidVideo(_NOT_DECODED) from None


def _fault_error(code: bytes | bytearray, limits: VideoLimits) -> InvalidVideo:
    try:
        return InvalidVideo(FAULTS[json.loads(bytes(code))].format(seconds=limits.seconds))
    except (ValueError, KeyError, TypeError):
        return InvalidVideo(_NOT_DECODED)

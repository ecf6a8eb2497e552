"""A clip's frames, decoded by a process of its own that is kept short of everything.

Frames come one at a time, upright and reduced, so memory holds one of them however long the clip;
who stops reading ends the process. The bytes go over in memory: a face never touches the disk.
"""

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np
import structlog

from contracts.errors import InvalidVideo, PayloadTooLarge
from contracts.queue.messages import Pixels
from contracts.settings import MIB, Settings
from models.faces.liveness import video_child
from models.faces.liveness.video_child import RECORD
from models.faces.liveness.video_formats import ACCEPTED, VideoKind, sniff_video

log = structlog.get_logger()

_CHILD = Path(video_child.__file__)
# What phones, browsers and webcams record in.
_CODECS = "h264,hevc,mpeg4,mjpeg,vp8,vp9,libvpx,libvpx-vp9,av1,libdav1d,libaom-av1,h263"
FAULTS = {
    "unreadable": f"The video cannot be read. Check that all of it was sent, as {ACCEPTED}, "
    "recorded in H.264, VP8, VP9 or Motion JPEG.",
    "no_frames": "The video holds no frame. Record it again.",
    "truncated": "The video ends before it is whole. Send all of the file.",
    "too_many_frames": "The video has too many frames. Record at most 120 a second.",
    "too_fast": "The video has too many frames a second. Record at most 240; 30 are plenty.",
    "too_many_pixels": "The video's frames are too large. Record in 4K at most; 720p is plenty.",
    "too_long": "The video is too long. Send a shorter one.",
}
_SLICE_SECONDS = 0.05  # how long a decoder may keep its reader from others at a time
_BROKEN = (
    "The video cannot be decoded within the memory and time there is. Record it again in 720p."
)


@dataclass(frozen=True, slots=True)
class VideoLimits:
    """How much of a clip is read, and what reading it may cost.

    Attributes:
        bytes: Of the file.
        seconds: The longest clip.
        frames: Most frames in it.
        pixels: Most pixels of one frame; 4K has 8.3 million.
        long_side: Pixels to which frames are reduced.
        fps: Frames a second that are kept; others are passed over.
        memory_bytes: Address space of the decoder.
        cpu_seconds: Its processor time.
        wait_seconds: How long it may keep its reader waiting in all.
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
        """As this installation is configured."""
        return cls(bytes=settings.max_video_bytes, seconds=settings.max_video_seconds)


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame.

    Attributes:
        at: Seconds from the clip's first frame.
        pixels: RGB, upright, shape (height, width, 3), uint8.
    """

    at: float
    pixels: Pixels


def _nothing() -> None:
    """What is done while waiting, where nobody else has anything to do."""


def read_frames(
    data: bytes | memoryview, limits: VideoLimits, waiting: Callable[[], None] = _nothing
) -> Generator[Frame, None, None]:
    """The frames of a clip, in order. Close the iterator to stop early.

    Args:
        data: The file, as it was sent.
        limits: How much of it is read.
        waiting: Called again and again while the decoder is at work; it may let others go first,
            or raise, which ends the decoder.

    Raises:
        PayloadTooLarge: It has too many bytes.
        InvalidVideo: It is no video, damaged, too long or too large; the detail says what to do.
    """
    check_video(data, limits)
    with (
        _file_of(data) as file,
        closing(_Decoder(file, sniff_video(data), limits, waiting)) as decoder,
    ):
        yield from decoder.frames()


def check_video(data: bytes | memoryview, limits: VideoLimits) -> None:
    """What can be refused without decoding.

    Raises:
        PayloadTooLarge: It has too many bytes.
        InvalidVideo: Its first bytes are not those of an accepted container.
    """
    if len(data) > limits.bytes:
        raise PayloadTooLarge(f"A video may have {limits.bytes:,} bytes; send a smaller one.")
    sniff_video(data)


class _Decoder:
    """The process, seen by its reader."""

    def __init__(
        self, file: BinaryIO, kind: VideoKind, limits: VideoLimits, waiting: Callable[[], None]
    ) -> None:
        self._limits = limits
        self._waiting = waiting
        self._waited = 0.0
        descriptor = file.fileno()
        self._process = subprocess.Popen(  # noqa: S603  our own file, numbers only
            [sys.executable, "-I", str(_CHILD), str(descriptor), json.dumps(asdict(limits))],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=[descriptor],
            env=_environment(kind),
            cwd="/",
            start_new_session=True,
        )
        if self._process.stdout is None:
            raise RuntimeError("the decoder has no output")
        self._output = self._process.stdout

    def frames(self) -> Iterator[Frame]:
        """All of them, checked: a decoder that was taken over may say anything."""
        limits, last = self._limits, -1.0
        for _ in range(limits.frames + 1):
            kind, at, height, width, size = RECORD.unpack(self._read(RECORD.size))
            if kind == video_child.END:
                return
            if kind == video_child.FAULT:
                raise _fault(self._read(min(size, 64)))
            sound = kind == video_child.FRAME and last < at <= limits.seconds
            if not sound or size != height * width * 3 or max(height, width) > limits.long_side:
                raise InvalidVideo(_BROKEN)
            last = at
            pixels = np.frombuffer(self._read(size), np.uint8).reshape(height, width, 3)
            yield Frame(at, pixels)
        raise InvalidVideo(FAULTS["too_many_frames"])

    def close(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._output.close()
        self._process.wait(10)

    def _read(self, size: int) -> bytearray:
        """So many bytes.

        Raises:
            InvalidVideo: They did not come, or not in time.
        """
        data = bytearray(size)
        view, have = memoryview(data), 0
        while have < size:
            ready = self._is_ready()
            got = os.readv(self._output.fileno(), [view[have:]]) if ready else 0
            if not got:
                log.info("video_not_decoded", late=not ready, status=self._process.poll())
                raise InvalidVideo(_BROKEN)
            have += got
        return data

    def _is_ready(self) -> bool:
        """Whether it says something before its time is over; others go first meanwhile."""
        while self._waited < self._limits.wait_seconds:
            began = time.monotonic()
            ready, _, _ = select.select([self._output], [], [], _SLICE_SECONDS)
            # What others took of the time is not the decoder's.
            self._waited += time.monotonic() - began
            if ready:
                return True
            self._waiting()
        return False


def _fault(told: bytes | bytearray) -> InvalidVideo:
    try:
        return InvalidVideo(FAULTS[json.loads(bytes(told))])
    except (ValueError, KeyError, TypeError):
        return InvalidVideo(_BROKEN)


def _environment(kind: VideoKind) -> dict[str, str]:
    """All that the decoder knows of the world: one parser, a few codecs, no protocol but files."""
    options = {
        "input_format": kind.demuxer,
        "protocol_whitelist": "file",
        "codec_whitelist": _CODECS,
    }
    return {
        "OPENCV_FFMPEG_CAPTURE_OPTIONS": "|".join(f"{k};{v}" for k, v in options.items()),
        "OPENCV_FFMPEG_LOGLEVEL": "-8",
        "OPENCV_LOG_LEVEL": "OFF",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }


def _file_of(data: bytes | memoryview) -> BinaryIO:
    """The bytes as a file without a name, in memory where the system can."""
    if hasattr(os, "memfd_create"):
        file: BinaryIO = os.fdopen(os.memfd_create("clip"), "w+b")
    else:
        file = os.fdopen(_nameless(), "w+b")
    try:
        file.write(data)
        file.flush()
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file


def _nameless() -> int:
    """A file on the disk that is gone when it is closed; where there is no better place."""
    descriptor, path = tempfile.mkstemp()
    Path(path).unlink()
    return descriptor

"""The process that decodes one clip: ``python -I video_child.py FD LIMITS``.

A video is the most dangerous upload, because half a million lines of C parse it. So it is decoded
in its own process with little memory, little time, no file except the clip and no environment. This
module imports only OpenCV and nothing of Opsin. It writes records to its standard output: a header
in the format of `RECORD`, then the pixels of a frame, or the code of a fault as JSON. The reader
(`models.faces.liveness.video`) validates all of it.

Its arguments: the file descriptor of the clip, then the fields of
`models.faces.liveness.video.VideoLimits` as JSON.
"""

import json
import os
import resource
import struct
import sys
from collections.abc import Iterator
from typing import Any

RECORD = struct.Struct("<cdHHI")
"""Kind, seconds since the start of the clip, height, width, number of bytes that follow."""
FRAME, END, FAULT = b"F", b"E", b"X"

_DEFAULT_FPS = 30.0
_MAX_FPS = 240.0
# Skipped frames cost as much to decode as returned ones. A clip with a variable rate may have this
# many in a burst; apart from that it has to keep to the maximum rate.
_MAX_BURST = 60
# The header's frame count and the time of the last frame never agree exactly.
_MISSING_SECONDS = 0.5
_MISSING_SHARE = 0.2


class _RefusedError(Exception):
    """The clip is refused; the argument is a key of `models.faces.liveness.video.FAULTS`."""


def confine(limits: dict[str, Any]) -> None:
    """Permanently drop what decoding does not need from this process."""
    memory, seconds = limits["memory_bytes"], limits["cpu_seconds"]
    for limit, value in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 32),
    ):
        hard = resource.getrlimit(limit)[1]
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (bound, bound))


def main(arguments: list[str]) -> int:
    """Write the frames of the clip; returns the exit status."""
    descriptor, limits = int(arguments[0]), json.loads(arguments[1])
    confine(limits)
    import cv2  # within the limits

    # From here on, no process or thread can be created; the decoder uses this one.
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    cv2.setNumThreads(1)
    with os.fdopen(1, "wb", buffering=1 << 20) as out:
        try:
            for seconds, pixels in _frames(cv2, f"/dev/fd/{descriptor}", limits):
                height, width, _ = pixels.shape
                out.write(RECORD.pack(FRAME, seconds, height, width, pixels.nbytes))
                out.write(pixels.data)
                out.flush()
        except _RefusedError as refused:
            code = json.dumps(refused.args[0]).encode()
            out.write(RECORD.pack(FAULT, 0, 0, 0, len(code)) + code)
        else:
            out.write(RECORD.pack(END, 0, 0, 0, 0))
    return 0


def _frames(cv2: Any, path: str, limits: dict[str, Any]) -> Iterator[tuple[float, Any]]:
    """Time in seconds and RGB pixels of the returned frames; upright, reduced."""
    clip = _open(cv2, path, limits)
    times = _FrameTimes(clip.get(cv2.CAP_PROP_FPS))
    step, due, seconds, count = 1 / limits["fps"], 0.0, 0.0, 0
    for seconds in _grab(cv2, clip, times, limits):
        count += 1
        if seconds < due - step / 4:
            continue
        # Relative to when it was due, so that the mean rate is right for irregular frames.
        due = max(due + step, seconds + step / 2)
        succeeded, pixels = clip.retrieve()
        if succeeded:
            _require_size(pixels.shape[0] * pixels.shape[1], limits)
            yield seconds, _reduce(cv2, pixels, limits["long_side"])
    if not count:
        raise _RefusedError("no_frames")
    if _ends_early(clip.get(cv2.CAP_PROP_FRAME_COUNT), count, times.fps, seconds):
        raise _RefusedError("truncated")


def _open(cv2: Any, path: str, limits: dict[str, Any]) -> Any:
    clip = cv2.VideoCapture(path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    if not clip.isOpened():
        raise _RefusedError("unreadable")
    size = clip.get(cv2.CAP_PROP_FRAME_WIDTH) * clip.get(cv2.CAP_PROP_FRAME_HEIGHT)
    if not size > 0:
        raise _RefusedError("unreadable")
    _require_size(size, limits)
    return clip


def _require_size(pixels: float, limits: dict[str, Any]) -> None:
    if pixels > limits["pixels"]:
        raise _RefusedError("too_many_pixels")


def _grab(cv2: Any, clip: Any, times: "_FrameTimes", limits: dict[str, Any]) -> Iterator[float]:
    """Time in seconds of each frame, which is decoded but not yet converted."""
    count = 0
    while clip.grab():
        count += 1
        if count > limits["frames"]:
            raise _RefusedError("too_many_frames")
        seconds = times.next(clip.get(cv2.CAP_PROP_POS_MSEC) / 1000)
        if seconds > limits["seconds"]:
            raise _RefusedError("too_long")
        if count > _MAX_BURST + _MAX_FPS * seconds:
            raise _RefusedError("too_fast")
        yield seconds


class _FrameTimes:
    """The timestamps of the frames if they are plausible, otherwise derived from the frame rate.

    Args:
        header_fps: Frames per second according to the header.
    """

    def __init__(self, header_fps: float) -> None:
        self.fps = header_fps if 1 <= header_fps <= _MAX_FPS else _DEFAULT_FPS
        self._first: float | None = None
        self._last = 0.0

    def next(self, timestamp: float) -> float:
        """Seconds since the first frame, for a frame whose timestamp may be wrong."""
        if self._first is None:
            self._first = timestamp
            return 0.0
        seconds = timestamp - self._first
        # Also true for NaN.
        if not seconds > self._last:
            seconds = self._last + 1 / self.fps
        self._last = seconds
        return seconds


def _reduce(cv2: Any, pixels: Any, long_side: int) -> Any:
    height, width = pixels.shape[:2]
    scale = long_side / max(height, width)
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def _ends_early(header_count: float, count: int, fps: float, last: float) -> bool:
    """Whether the clip is much shorter than the header says, in frames and in seconds.

    For a variable frame rate, one of the two may be an estimate. The header of a live recording
    has neither.
    """
    seconds = header_count / fps
    has_fewer = count < (1 - _MISSING_SHARE) * header_count
    return has_fewer and seconds - last > max(_MISSING_SECONDS, _MISSING_SHARE * seconds)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

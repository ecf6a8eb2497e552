"""The process that decodes one clip, started afresh for it: ``python -I video_child.py FD …``.

A video is the most dangerous thing a client can send: half a million lines of C take it apart.
So this runs apart from everything, with little memory, little time, no file but the clip and no
environment; and it imports nothing of ours, only OpenCV. It writes records to its standard output:
a header as `RECORD` packs it, then the pixels of a frame, or JSON for the end or a fault. Whoever
reads them (`models.faces.liveness.video`) trusts none of it.

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
"""Kind, seconds from the clip's start, height, width, bytes that follow."""
FRAME, END, FAULT = b"F", b"E", b"X"

_USUAL_FPS = 30.0
_MOST_FPS = 240.0
# Frames that are decoded in vain cost as much as those that are kept: so many come at once where a
# rate varies, and from then on a clip must keep to the rate.
_BURST = 60
# A header's rate and the last frame's own time never agree to the frame.
_MISSING_SECONDS = 0.5
_MISSING_PART = 0.2


class _RefusedError(Exception):
    """The clip is not taken; the argument is one of `models.faces.liveness.video.FAULTS`."""


def confine(limits: dict[str, Any]) -> None:
    """Take from this process what decoding does not need, for good."""
    memory, seconds = limits["memory_bytes"], limits["cpu_seconds"]
    for what, most in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 32),
    ):
        hard = resource.getrlimit(what)[1]
        bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (bound, bound))


def main(arguments: list[str]) -> int:
    """Write the clip's frames; returns the exit status, 0 unless something broke."""
    descriptor, limits = int(arguments[0]), json.loads(arguments[1])
    confine(limits)
    import cv2  # within the limits

    # No process and no thread from here on: the decoder is one thread of this one.
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    cv2.setNumThreads(1)
    with os.fdopen(1, "wb", buffering=1 << 20) as out:
        try:
            for at, pixels in _frames(cv2, f"/dev/fd/{descriptor}", limits):
                height, width, _ = pixels.shape
                out.write(RECORD.pack(FRAME, at, height, width, pixels.nbytes))
                out.write(pixels.data)
                out.flush()
        except _RefusedError as refused:
            told = json.dumps(refused.args[0]).encode()
            out.write(RECORD.pack(FAULT, 0, 0, 0, len(told)) + told)
        else:
            out.write(RECORD.pack(END, 0, 0, 0, 0))
    return 0


def _frames(cv2: Any, path: str, limits: dict[str, Any]) -> Iterator[tuple[float, Any]]:
    """Time in seconds and RGB pixels of the frames that are kept; upright, reduced."""
    clip = _opened(cv2, path, limits)
    times = _Times(clip.get(cv2.CAP_PROP_FPS))
    step, due, at, read = 1 / limits["fps"], 0.0, 0.0, 0
    for at in _grabbed(cv2, clip, times, limits):
        read += 1
        if at < due - step / 4:
            continue
        # From where it was due, so that the mean rate holds though frames come when they come.
        due = max(due + step, at + step / 2)
        whole, pixels = clip.retrieve()
        if whole:
            _require_size(pixels.shape[0] * pixels.shape[1], limits)
            yield at, _reduced(cv2, pixels, limits["long_side"])
    if not read:
        raise _RefusedError("no_frames")
    if _ends_early(clip.get(cv2.CAP_PROP_FRAME_COUNT), read, times.fps, at):
        raise _RefusedError("truncated")


def _opened(cv2: Any, path: str, limits: dict[str, Any]) -> Any:
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


def _grabbed(cv2: Any, clip: Any, times: "_Times", limits: dict[str, Any]) -> Iterator[float]:
    """Seconds of each frame, which is decoded but not yet converted."""
    read = 0
    while clip.grab():
        read += 1
        if read > limits["frames"]:
            raise _RefusedError("too_many_frames")
        at = times.next(clip.get(cv2.CAP_PROP_POS_MSEC) / 1000)
        if at > limits["seconds"]:
            raise _RefusedError("too_long")
        if read > _BURST + _MOST_FPS * at:
            raise _RefusedError("too_fast")
        yield at


class _Times:
    """The frames' own times where they make sense, else what the frame rate makes of them.

    Args:
        told: Frames a second, as the header says.
    """

    def __init__(self, told: float) -> None:
        self.fps = told if 1 <= told <= _MOST_FPS else _USUAL_FPS
        self._first: float | None = None
        self._last = 0.0

    def next(self, told: float) -> float:
        """Seconds from the first frame.

        Args:
            told: The frame's own time; it may be nonsense.
        """
        if self._first is None:
            self._first = told
            return 0.0
        at = told - self._first
        # Also true of what is not a number.
        if not at > self._last:
            at = self._last + 1 / self.fps
        self._last = at
        return at


def _reduced(cv2: Any, pixels: Any, long_side: int) -> Any:
    height, width = pixels.shape[:2]
    scale = long_side / max(height, width)
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def _ends_early(promised: float, read: int, fps: float, last: float) -> bool:
    """Whether there was much less than the header says, in frames and in seconds.

    Where frames come at a varying rate one of the two may be a guess; a clip that was recorded
    live has neither, and promises nothing.
    """
    seconds = promised / fps
    fewer = read < (1 - _MISSING_PART) * promised
    return fewer and seconds - last > max(_MISSING_SECONDS, _MISSING_PART * seconds)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The process that decodes one clip: ``python -I video_child.py FD DEMUXER LIMITS``.

A video is the most dangerous upload, because half a million lines of C parse it. So it is decoded
in its own process with little memory, little time, no file except the clip and no environment. This
module imports only PyAV (FFmpeg) and nothing of Opsin. It writes records to its standard output: a
header in the format of `RECORD`, then the pixels of a frame, or the code of a fault as JSON. The
reader (`models.faces.liveness.video`) validates all of it.

Its arguments: the file descriptor of the clip, FFmpeg's name of the only parser that may read it,
and the fields of `models.faces.liveness.video.VideoLimits` as JSON.

What a container says about its length, rate and number of frames is not believed: browsers leave it
out or estimate it, and phones keep the old values when they trim a clip. The frames that decode are
the clip (docs/decisions/0007).
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

# What phones, browsers and webcams record in, and the decoders for it.
_CODECS = {"h264", "hevc", "mpeg4", "mjpeg", "vp8", "vp9", "av1", "libdav1d", "h263"}
_DEFAULT_FPS = 30.0
_MAX_FPS = 240.0
# Skipped frames cost as much to decode as returned ones. A clip with a variable rate may have this
# many in a burst; apart from that it has to keep to the maximum rate.
_MAX_BURST = 60
# Camcorders store frames of 4:3 that are shown as 16:9; a header that claims much more is wrong.
# A clip that was scaled to whole pixels may claim up to two percent, which is not visible.
_MAX_PIXEL_ASPECT, _SQUARE = 4.0, 0.02
# Packets for each frame of the limit: a frame may have two, and some show none. A file may have
# millions that hold nothing.
_MAX_PACKETS = 4
_MATRIX = struct.Struct("=9i")
# PQ (SMPTE ST 2084). HLG is made to be shown unconverted, and other curves are like that of sRGB.
_PQ = 16
_TO_SRGB = {"dst_color_trc": "IEC61966_2_1", "dst_color_primaries": "BT709"}


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
    descriptor, demuxer, limits = int(arguments[0]), arguments[1], json.loads(arguments[2])
    confine(limits)
    import av  # within the limits

    # From here on, no process or thread can be created; the decoder uses this one.
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    av.logging.set_level(None)
    with os.fdopen(1, "wb", buffering=1 << 20) as out:
        try:
            for seconds, pixels in _frames(av, f"/dev/fd/{descriptor}", demuxer, limits):
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


def _frames(
    av: Any, path: str, demuxer: str, limits: dict[str, Any]
) -> Iterator[tuple[float, Any]]:
    """Time in seconds and RGB pixels of the returned frames; upright, reduced."""
    hides_all = _survey(av, path, demuxer, limits)
    container = _open(av, path, demuxer, ignore_editlist="1" if hides_all else "0")
    stream = _video_stream(container, limits)
    convert = _Converter(av, float(stream.sample_aspect_ratio or 1), limits["long_side"])
    step, due, count = 1 / limits["fps"], 0.0, 0
    for seconds, frame in _timed(_decoded(av, container, stream, limits), stream, limits):
        count += 1
        _require_size(frame.width * frame.height, limits)
        if seconds < due - step / 4:
            continue
        # Relative to when it was due, so that the mean rate is right for irregular frames.
        due = max(due + step, seconds + step / 2)
        yield seconds, convert(frame)
    if not count:
        raise _RefusedError("no_frames")


def _open(av: Any, path: str, demuxer: str, **options: str) -> Any:
    """Open the clip with one parser, a few codecs and no protocol except files."""
    options |= {"protocol_whitelist": "file", "codec_whitelist": ",".join(sorted(_CODECS))}
    try:
        # A title in an unknown character set is no reason to refuse a clip.
        return av.open(path, format=demuxer, container_options=options, metadata_errors="replace")
    except av.error.MemoryError as error:
        raise _RefusedError("limits") from error
    except av.error.FFmpegError as error:
        raise _RefusedError("unreadable") from error


def _video_stream(container: Any, limits: dict[str, Any]) -> Any:
    """The video of the clip, ready to be decoded by this thread alone."""
    stream = container.streams.best("video")
    if stream is None:
        raise _RefusedError("no_frames")
    codec = stream.codec_context
    if codec is None or codec.codec.name not in _CODECS:
        raise _RefusedError("unreadable")
    _require_size(codec.width * codec.height, limits)
    codec.thread_count = 1
    return stream


def _survey(av: Any, path: str, demuxer: str, limits: dict[str, Any]) -> bool:
    """Refuse a clip that is too long before a frame is decoded.

    Both its packets' times and their number must say so, since either may be wrong; the frames are
    counted again as they are decoded.

    Returns:
        Whether the edit list of the clip hides every frame, so that it must be wrong. Some programs
        write a length of 0 for "to the end".
    """
    with _open(av, path, demuxer) as container:
        stream = _video_stream(container, limits)
        rate, unit = float(stream.average_rate or 0), float(stream.time_base or 0)
        times, hidden, count = [], 0, 0
        try:
            for packet in container.demux(stream):
                hidden += packet.is_discard
                count += 1
                if packet.pts is not None and not packet.is_discard:
                    times.append(packet.pts)
                if len(times) > limits["frames"] or count > _MAX_PACKETS * limits["frames"]:
                    return False
        except av.error.FFmpegError:
            return False
    by_number = len(times) / rate if rate else 0.0
    by_times = (max(times) - min(times)) * unit if times else 0.0
    if min(by_number, by_times) > limits["seconds"]:
        raise _RefusedError("too_long")
    return hidden > 0 and not times


def _require_size(pixels: float, limits: dict[str, Any]) -> None:
    if pixels > limits["pixels"]:
        raise _RefusedError("too_many_pixels")


def _require_memory(stream: Any) -> None:
    """Refuse the clip if there is no memory for another frame of up to 32 bits a pixel.

    Some decoders report a frame as damaged for which they had none.
    """
    codec = stream.codec_context
    try:
        bytearray(4 * codec.width * codec.height)
    except MemoryError as error:
        raise _RefusedError("limits") from error


def _decoded(av: Any, container: Any, stream: Any, limits: dict[str, Any]) -> Iterator[Any]:
    """Every frame that decodes, in the order in which it is shown.

    A damaged frame is left out, as a player does. A file that ends within a frame, or that cannot
    be read further, is refused after its last frame. Without memory for a frame, the clip is
    refused.
    """
    is_cut = False
    try:
        for count, packet in enumerate(container.demux(stream)):
            if count > _MAX_PACKETS * limits["frames"]:
                raise _RefusedError("too_many_parts")
            is_cut |= packet.is_corrupt  # fewer bytes were left than the packet has
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:
                _require_memory(stream)
                continue
            yield from frames
    except av.error.MemoryError as error:
        raise _RefusedError("limits") from error
    except av.error.FFmpegError:
        is_cut = True
    if is_cut:
        raise _RefusedError("truncated")


def _timed(
    frames: Iterator[Any], stream: Any, limits: dict[str, Any]
) -> Iterator[tuple[float, Any]]:
    """Each frame with its time in seconds; it is decoded, but not yet converted."""
    times = _FrameTimes(float(stream.average_rate or 0))
    # AVI stores when a frame is decoded; FFmpeg's guess when it is shown is wrong for B-frames.
    has_shown_times = stream.container.format.name != "avi"
    for count, frame in enumerate(frames, 1):
        if count > limits["frames"]:
            raise _RefusedError("too_many_frames")
        seconds = times.next(_timestamp(frame, stream, has_shown_times))
        if seconds > limits["seconds"]:
            raise _RefusedError("too_long")
        if count > _MAX_BURST + _MAX_FPS * seconds:
            raise _RefusedError("too_fast")
        yield seconds, frame


def _timestamp(frame: Any, stream: Any, has_shown_times: bool) -> float | None:
    """When the frame is shown, in seconds, or else when it is decoded."""
    ticks = frame.pts if has_shown_times and frame.pts is not None else frame.dts
    time_base = frame.time_base or stream.time_base
    return None if ticks is None or time_base is None else float(ticks * time_base)


class _FrameTimes:
    """The timestamps of the frames if they are plausible, otherwise derived from the frame rate.

    Args:
        header_fps: Frames per second according to the header.
    """

    def __init__(self, header_fps: float) -> None:
        self.fps = header_fps if 1 <= header_fps <= _MAX_FPS else _DEFAULT_FPS
        self._first: float | None = None
        self._last = 0.0

    def next(self, timestamp: float | None) -> float:
        """Seconds since the first frame, for a frame whose timestamp may be wrong or missing."""
        if self._first is None:
            self._first = timestamp or 0.0
            return 0.0
        seconds = self._last if timestamp is None else timestamp - self._first
        # Also true for NaN.
        if not seconds > self._last:
            seconds = self._last + 1 / self.fps
        self._last = seconds
        return seconds


class _Converter:
    """Makes RGB as it is shown, of at most `long_side` pixels a side, from a decoded frame.

    Args:
        pixel_aspect: Width of a stored pixel divided by its height.
    """

    def __init__(self, av: Any, pixel_aspect: float, long_side: int) -> None:
        self._reformat = av.video.reformatter.VideoReformatter().reformat
        is_square = abs(pixel_aspect - 1) < _SQUARE
        is_plausible = 1 / _MAX_PIXEL_ASPECT <= pixel_aspect <= _MAX_PIXEL_ASPECT
        self._stretch = pixel_aspect if is_plausible and not is_square else 1.0
        self._long_side = long_side
        self._matrix: tuple[int, int, int, int] | None = None

    def __call__(self, frame: Any) -> Any:
        """The pixels, shape (height, width, 3), uint8, contiguous."""
        import numpy as np  # PyAV loads it as well

        # Of the first frame only: to read it makes a cycle of references in PyAV, with which a
        # frame stays in memory until the collector of cycles runs.
        self._matrix = self._matrix or _display_matrix(frame)
        width, height = frame.width * max(1, self._stretch), frame.height / min(1, self._stretch)
        scale = min(1.0, self._long_side / max(height, width))
        small = self._reformat(
            frame,
            width=max(1, round(width * scale)),
            height=max(1, round(height * scale)),
            format="rgb24",
            interpolation="AREA" if scale < 1 else "BICUBIC",
            threads=1,
            **(_TO_SRGB if frame.color_trc == _PQ else {}),
        )
        return np.ascontiguousarray(_upright(small.to_ndarray(), self._matrix))


def _display_matrix(frame: Any) -> tuple[int, int, int, int]:
    """How the frame is turned and mirrored to be shown: a, b, c and d of its matrix."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None or matrix.buffer_size != _MATRIX.size:
        return 1, 0, 0, 1
    a, b, _, c, d, *_ = _MATRIX.unpack(bytes(matrix))
    return a, b, c, d


def _upright(pixels: Any, matrix: tuple[int, int, int, int]) -> Any:
    """Apply a matrix, to the nearest quarter turn.

    A point (x, y) is shown at (ax + cy, bx + dy). A phone that is held upright turns the frame; a
    front camera may also mirror it.
    """
    a, b, c, d = matrix
    to_right, down = a, d
    if abs(b) + abs(c) > abs(a) + abs(d):
        pixels, to_right, down = pixels.swapaxes(0, 1), c, b
    return pixels[:: -1 if down < 0 else 1, :: -1 if to_right < 0 else 1]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

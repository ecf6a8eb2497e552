"""Clips as browsers, phones and webcams write them; a header describes some of them wrongly."""

import functools
import io
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import pytest

from contracts.errors import InvalidVideo
from models.faces.liveness.video import FAULTS, VideoFrame, VideoLimits, read_frames
from tests.models.faces.liveness.test_video import moving

TICKS = 1000  # a second
STEADY = tuple(range(0, 2000, 100))
# Frames as a browser's camera delivers them: late ones, and some that are missing.
IRREGULAR = (0, 71, 140, 203, 290, 560, 633, 700, 768, 1100, 1171, 1240, 1307, 1500, 1690, 1760)
ENCODERS = {
    "webm": "libvpx",
    "matroska": "libx264",
    "mp4": "libx264",
    "mov": "libx265",
    "3gp": "mpeg4",
    "avi": "mjpeg",
}
CLUSTER = b"\x1f\x43\xb6\x75"
SOUND = {"webm": ("libopus", 48000), "matroska": ("aac", 48000), "mp4": ("aac", 48000)}
LIVE = {"webm": {"live": "1"}, "mp4": {"movflags": "frag_every_frame+empty_moov+default_base_moof"}}


@functools.cache
def record(
    container: str = "webm",
    codec: str | None = None,
    times: Sequence[int] = STEADY,
    *,
    sound_seconds: float = 0.0,
    live: bool = False,
    pixel_aspect: Fraction = Fraction(1),
    color_trc: int = 1,
    **settings: str,
) -> bytes:
    """A clip with a frame at each time in milliseconds."""
    with _own_priority():
        shown_as: dict[str, object] = {"sample_aspect_ratio": pixel_aspect, "color_trc": color_trc}
        return _record(container, codec, times, sound_seconds, live, shown_as, settings)


@contextmanager
def _own_priority() -> Iterator[None]:
    """SVT-AV1 gives the process real-time priority where it may; take it back."""
    if not hasattr(os, "sched_setscheduler"):  # not on macOS
        yield
        return
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, parameters)


def _record(
    container: str,
    codec: str | None,
    times: Sequence[int],
    sound_seconds: float,
    live: bool,
    shown_as: dict[str, object],
    settings: dict[str, str],
) -> bytes:
    file = io.BytesIO()
    codec = codec or ENCODERS[container]
    options = LIVE[container] if live else {}
    with av.open(file, "w", format=container, container_options=options) as out:
        stream: Any = out.add_stream(codec, rate=10, options=settings)
        stream.width, stream.height = 160, 96
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        base = Fraction(1, 10) if container == "avi" else Fraction(1, TICKS)
        stream.codec_context.time_base = base
        for name, value in shown_as.items():
            setattr(stream.codec_context, name, value)
        sound = out.add_stream(*SOUND[container]) if sound_seconds else None
        for time, pixels in zip(times, moving(len(times)), strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = int(Fraction(time, TICKS) / base), base
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        if sound is not None:
            _play(out, sound, sound_seconds)
    return file.getvalue()


def _play(out: Any, stream: Any, seconds: float) -> None:
    layout = stream.codec_context.layout.name
    for start in range(0, int(seconds * 48000), 960):
        samples = np.zeros((1, 960 * stream.codec_context.layout.nb_channels), np.int16)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout=layout)
        frame.sample_rate, frame.pts = 48000, start
        frame.time_base = Fraction(1, 48000)
        out.mux(stream.encode(frame))
    out.mux(stream.encode(None))


def read(data: bytes) -> list[VideoFrame]:
    return list(read_frames(data, VideoLimits()))


def times_of(data: bytes) -> list[float]:
    return [round(frame.time, 3) for frame in read(data)]


def _bar(frame: VideoFrame) -> float:
    """The column of the bright bar."""
    return float(np.flatnonzero(frame.pixels[48, 16:, 1] > 150).mean())


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("container", ["webm", "mp4"])
def test_irregular_frames_keep_their_times(container: str, live: bool) -> None:
    """A MediaRecorder writes no length, no rate and no count, and frames as they come."""
    data = record(container, times=IRREGULAR, live=live)
    assert times_of(data) == pytest.approx([time / TICKS for time in IRREGULAR], abs=0.002)


@pytest.mark.parametrize(
    ("container", "codec", "settings"),
    [
        ("webm", "libvpx", {}),
        ("webm", "libvpx-vp9", {}),
        ("webm", "libsvtav1", {"preset": "12"}),
        ("mp4", "libsvtav1", {"preset": "12"}),
        ("mp4", "libx264", {"bf": "4", "x264-params": "open-gop=1"}),
        ("matroska", "libx264", {"bf": "4"}),
        ("mov", "libx265", {"x265-params": "log-level=none:bframes=4"}),
        ("3gp", "mpeg4", {}),
        ("avi", "mjpeg", {}),
        ("avi", "libx264", {"bf": "4"}),
    ],
)
def test_every_codec_is_decoded(container: str, codec: str, settings: dict[str, str]) -> None:
    frames = read(record(container, codec, **settings))
    expected = [time / TICKS for time in STEADY]
    assert [frame.time for frame in frames] == pytest.approx(expected, abs=0.002)
    bars = [_bar(frame) for frame in frames]
    assert bars == sorted(bars), "the frames are in the order in which they are shown"


@pytest.mark.parametrize("container", ["webm", "matroska", "mp4"])
def test_sound_may_outlast_the_frames(container: str) -> None:
    data = record(container, sound_seconds=4.5)
    assert times_of(data)[-1] == pytest.approx(1.9, abs=0.002)
    assert len(read(data)) == len(STEADY)


def test_a_false_length_in_the_header_is_ignored() -> None:
    data = bytearray(record("webm"))
    place = data.index(b"\x44\x89\x88") + 3  # Duration, eight bytes
    assert struct.unpack_from(">d", data, place)[0] == pytest.approx(2000, abs=100)
    for seconds in (0.0, 0.1, 3600.0, float("nan")):
        struct.pack_into(">d", data, place, seconds * TICKS)
        assert len(read(bytes(data))) == len(STEADY)


def test_a_clip_that_a_phone_trimmed_has_the_frames_that_are_left() -> None:
    """A phone keeps all frames and writes in the edit list which of them are shown."""
    data = bytearray(record("mp4", "mpeg4"))
    place = data.index(b"elst") + 12
    length, start = struct.unpack_from(">Ii", data, place)
    scale = struct.unpack_from(">I", data, data.index(b"mdhd") + 16)[0]
    struct.pack_into(">Ii", data, place, length // 2, start + scale)
    frames = read(bytes(data))
    assert 9 <= len(frames) <= 11
    assert frames[-1].time == pytest.approx(0.9, abs=0.11)
    assert _bar(frames[0]) > 60, "the first half is not shown"


@pytest.mark.parametrize(("length", "start"), [(0, 0), (500, 2**30)])
def test_an_edit_list_that_hides_every_frame_is_ignored(length: int, start: int) -> None:
    """Some programs write 0 for "to the end", as in a fragmented file, or count in other units."""
    data = bytearray(record("mp4", "mpeg4"))
    struct.pack_into(">Ii", data, data.index(b"elst") + 12, length, start)
    assert len(read(bytes(data))) == len(STEADY)


@pytest.mark.parametrize(
    ("pixel_aspect", "shape"),
    [
        (Fraction(4, 3), (96, 213)),
        (Fraction(1, 2), (192, 160)),
        (Fraction(1916, 1923), (96, 160)),  # a program rounded the size
        (Fraction(8), (96, 160)),  # no camera has such pixels
    ],
)
def test_pixels_that_are_no_squares_are_stretched(
    pixel_aspect: Fraction, shape: tuple[int, int]
) -> None:
    """Otherwise the faces of a camcorder are thin."""
    (frame, *_) = read(record("mp4", pixel_aspect=pixel_aspect))
    assert frame.pixels.shape[:2] == shape


def test_pq_is_converted() -> None:
    """Shown as it is, a face in PQ resembles itself in SDR hardly enough to match."""
    plain, pq = (read(record("mp4", times=(0, 100), color_trc=trc))[0].pixels for trc in (1, 16))
    assert plain[48, 155].mean() == pytest.approx(40, abs=8)
    assert pq[48, 155].mean() < 30, "dark tones of PQ stand for less"
    assert plain[48, 25].mean() == pytest.approx(230, abs=8)
    assert pq[48, 25].mean() == pytest.approx(255, abs=4), "and bright ones for more"


@pytest.mark.parametrize("part", [0.1, 0.35, 0.5, 0.75, 0.9])
@pytest.mark.parametrize(
    ("container", "live"), [*((name, False) for name in ENCODERS), ("webm", True), ("mp4", True)]
)
def test_a_clip_that_was_cut_off_is_refused(container: str, live: bool, part: float) -> None:
    data = record(container, times=IRREGULAR if live else STEADY, live=live)
    with pytest.raises(InvalidVideo) as caught:
        read(data[: int(len(data) * part)])
    assert caught.value.detail == FAULTS["truncated"]


def test_packets_that_hold_nothing_are_not_decoded_endlessly() -> None:
    """Lacing: a byte of the file for each packet, and much more time."""
    clip = record("matroska")
    head = bytearray(clip[: clip.index(CLUSTER)])
    segment = head.index(b"\x18\x53\x80\x67") + 4
    head[segment : segment + 8] = b"\x01" + b"\xff" * 7
    block = b"\x81\x00\x00\x04\xff" + b"\x00" * 256
    cluster = b"\xe7\x81\x00" + (b"\xa3" + struct.pack(">I", 1 << 28 | len(block)) + block) * 60
    data = bytes(head) + CLUSTER + struct.pack(">I", 1 << 28 | len(cluster)) + cluster
    with pytest.raises(InvalidVideo) as refused:
        list(read_frames(data, VideoLimits()))
    assert str(refused.value) == FAULTS["too_many_parts"]


def test_the_size_may_change_within_a_clip() -> None:
    """As in a browser's recording while a phone is turned."""
    file = io.BytesIO()
    with av.open(file, "w", format="webm") as out:
        stream: Any = out.add_stream("libvpx", rate=10)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        turned: Any = av.CodecContext.create("libvpx", "w")
        turned.width, turned.height, turned.pix_fmt = 96, 160, "yuv420p"
        turned.time_base = stream.codec_context.time_base = Fraction(1, 10)
        for number, pixels in enumerate(moving(8)):
            upright = pixels if number < 4 else np.ascontiguousarray(np.rot90(pixels))
            frame = av.VideoFrame.from_ndarray(upright, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            for packet in (stream if number < 4 else turned).encode(frame):
                packet.stream = stream
                out.mux(packet)
    shapes = [frame.pixels.shape[:2] for frame in read(file.getvalue())]
    assert shapes == [(96, 160)] * 4 + [(160, 96)] * 4


def test_a_damaged_frame_is_left_out() -> None:
    data = bytearray(record("avi"))
    place = data.index(b"00dc", len(data) // 2) + 8
    data[place : place + 200] = bytes(200)
    assert len(STEADY) - 1 <= len(read(bytes(data))) <= len(STEADY)


def test_a_title_in_an_unknown_character_set_is_no_fault() -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        out.metadata["title"] = "Holiday"
        stream = out.add_stream("mpeg4", rate=10)
        for pixels in moving(8):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        out.mux(stream.encode(None))
    assert len(read(file.getvalue().replace(b"Holiday", b"H\xff\xfeiday"))) >= 7


@pytest.mark.parametrize("codec", ["libsvtav1", "libvpx-vp9", "libx264"])
def test_the_decoder_needs_one_thread(codec: str) -> None:
    """It may not create another one (RLIMIT_NPROC), which root would not notice."""
    frames = read_frames(record("mp4", codec), VideoLimits())
    next(frames)
    (child,) = [p for p in psutil.Process().children() if "video_child" in str(p.cmdline())]
    threads = child.num_threads()
    frames.close()
    assert threads == 1


def test_what_browsers_recorded_is_read(shared: Path) -> None:
    """Chrome 156 and Firefox 153, four seconds each."""
    recordings = sorted((shared / "cases" / "recordings").glob("*.bin"))
    assert len(recordings) == 5
    for path in recordings:
        frames = read(path.read_bytes())
        assert len(frames) > 20, path.name
        assert 3 < frames[-1].time < 4.2, path.name

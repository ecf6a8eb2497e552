"""Intact and broken clips in every container, through the real decoder process."""

import io
import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import psutil
import pytest

from contracts.errors import DeadlineExceeded, InvalidVideo, PayloadTooLarge
from contracts.queue.messages import Pixels
from models.faces.liveness import video, video_child
from models.faces.liveness.video import FAULTS, VideoFrame, VideoLimits, read_frames
from models.faces.liveness.video_formats import AVI, MOV, MP4, WEBM, detect_video_format
from tests.models.faces.rendering import CODECS, write_video

LIMITS = VideoLimits()


def moving(count: int, size: tuple[int, int] = (96, 160)) -> Iterator[Pixels]:
    """A bright bar moving to the right on a dark background, with a red left edge."""
    height, width = size
    for number in range(count):
        image = np.full((height, width, 3), 40, np.uint8)
        image[:, :12] = (220, 30, 30)
        left = 20 + number * (width - 40) // count
        image[:, left : left + 16] = 230
        yield image


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A clip of two seconds at 15 frames a second in each container."""
    folder = tmp_path_factory.mktemp("clips")
    return {kind: write_video(folder / f"clip.{kind}", moving(30), 15) for kind in CODECS}


def read(data: bytes, limits: VideoLimits = LIMITS) -> list[VideoFrame]:
    return list(read_frames(data, limits))


def fault(data: bytes, limits: VideoLimits = LIMITS) -> str:
    with pytest.raises(InvalidVideo) as caught:
        read(data, limits)
    assert caught.value.code == "invalid_video"
    return caught.value.detail


@pytest.mark.parametrize("kind", CODECS)
def test_every_container_can_be_read(kind: str, clips: dict[str, bytes]) -> None:
    frames = read(clips[kind])
    assert len(frames) == 30
    assert [frame.time for frame in frames] == pytest.approx([n / 15 for n in range(30)], abs=0.002)
    assert all(frame.pixels.shape == (96, 160, 3) for frame in frames)
    red, bar = frames[0].pixels[48, 4], frames[-1].pixels[48, 144]
    assert red[0] > 150 > red[2], "the channels are RGB"
    assert bar.min() > 180, "the bar has moved"


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\0\0\0\x20ftypisom", MP4),
        (b"\0\0\0\x20ftypqt  ", MOV),
        (b"\0\0\0\x08wide\0\0\0\0mdat", MOV),
        (b"\x1aE\xdf\xa3\x01\0\0\0\0\0\0\x1fB\x82\x84webm", WEBM),
        (b"RIFF\0\0\0\0AVI LIST", AVI),
    ],
)
def test_a_container_is_detected_by_its_first_bytes(head: bytes, kind: object) -> None:
    assert detect_video_format(head) is kind


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"", "empty"),
        (b"#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:0\nfile:///etc/passwd\n", "a playlist"),
        (b"ffconcat version 1.0\nfile '/etc/passwd'\n", "text"),
        (b"\xff\xd8\xff\xe0" + bytes(100), "an image (JPEG)"),
        (b"GIF89a" + bytes(100), "an image (GIF)"),
        (b"RIFF\0\0\0\0WEBPVP8X", "an image (WEBP)"),
        (b"\0\0\0\x20ftypheic" + bytes(100), "an image (HEIF)"),
        (b"\0\0\0\x20ftypavis" + bytes(100), "an image (AVIF)"),
        (b"\0\0\0\x20ftypM4A " + bytes(100), "a sound file"),
        (b"RIFF\0\0\0\0WAVEfmt ", "a sound file"),
        ((b"G" + bytes(187)) * 2, "an MPEG transport stream"),
        (b"OggS\0\2" + bytes(100), "an Ogg file"),
        (b"<?xml version='1.0'?><MPD/>", "an XML"),
        (b"data:video/mp4;base64,AAAAIGZ0eXBpc29t", "text"),
        (b'{"video": "AAAAIGZ0eXBpc29t"}', "JSON"),
    ],
)
def test_other_files_never_reach_the_decoder(
    data: bytes, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video, "_Decoder", None)
    detail = fault(data)
    assert name in detail
    assert "Send" in detail


def test_a_playlist_with_the_head_of_a_video_is_not_followed(tmp_path: Path) -> None:
    """Opsin chooses the parser; FFmpeg itself would detect the playlist."""
    data = b"\0\0\0\x08wide" + b"#EXTM3U\nfile:///etc/passwd\n" * 20
    assert fault(data) == FAULTS["unreadable"]


@pytest.mark.parametrize("kind", CODECS)
@pytest.mark.parametrize("part", [0.02, 0.5])
def test_a_truncated_file_is_reported(kind: str, part: float, clips: dict[str, bytes]) -> None:
    code = fault(clips[kind][: int(len(clips[kind]) * part)])
    assert code in {FAULTS["unreadable"], FAULTS["truncated"], FAULTS["no_frames"]}


def test_a_truncated_clip_with_the_index_first_is_reported(clips: dict[str, bytes]) -> None:
    """Phones write the index last, servers first; then the rest of the clip can be decoded."""
    assert fault(_faststart(clips["mp4"])[:-1600]) == FAULTS["truncated"]
    assert len(read(_faststart(clips["mp4"]))) == 30


def test_random_bytes_in_the_middle_are_harmless(clips: dict[str, bytes]) -> None:
    noise = np.random.default_rng(0)
    for kind in CODECS:
        data = bytearray(clips[kind])
        for position in noise.integers(64, len(data), 200):
            data[position] = noise.integers(256)
        with suppress(InvalidVideo):
            assert len(read(bytes(data))) <= 30


def test_the_rotation_of_a_phone_is_applied(clips: dict[str, bytes]) -> None:
    """The frames are rotated in the file, and a matrix in the header says how to display them."""
    upright = read(_rotated(clips["mp4"], 90))[0].pixels
    assert upright.shape == (160, 96, 3)
    # Rotated clockwise, the left edge is at the top.
    assert upright[4, 48][0] > 150 > upright[4, 48][2]
    assert read(_rotated(clips["mp4"], 270))[0].pixels[-4, 48][0] > 150
    assert read(_rotated(clips["mp4"], 180))[0].pixels[48, -4][0] > 150


def test_what_a_front_camera_mirrors_is_mirrored(clips: dict[str, bytes]) -> None:
    """The red left edge is at the right; held upright as well, at the top or at the bottom."""
    mirrored = read(_with_matrix(clips["mp4"], (-1, 0, 0, 1)))[0].pixels
    assert mirrored[48, -4][0] > 150 > mirrored[48, 4][0]
    assert np.array_equal(mirrored, read(clips["mp4"])[0].pixels[:, ::-1])
    turned = read(_with_matrix(clips["mp4"], (0, 1, 1, 0)))[0].pixels
    assert turned.shape == (160, 96, 3)
    assert np.array_equal(turned, read(_rotated(clips["mp4"], 90))[0].pixels[:, ::-1])
    assert np.array_equal(
        read(_with_matrix(clips["mp4"], (0, -1, -1, 0)))[0].pixels,
        read(_rotated(clips["mp4"], 270))[0].pixels[:, ::-1],
    )


def test_long_sides_are_reduced(tmp_path: Path) -> None:
    data = write_video(tmp_path / "tall.mp4", moving(4, (960, 544)), 10)
    assert read(data)[0].pixels.shape == (640, 363, 3)
    assert read(data, replace(LIMITS, long_side=480))[0].pixels.shape == (480, 272, 3)


def test_frames_beyond_the_rate_are_skipped(tmp_path: Path) -> None:
    data = write_video(tmp_path / "fast.mp4", moving(90), 60)
    frames = read(data)
    assert 20 <= len(frames) <= 24  # 1.5 s at 15
    assert max(np.diff([frame.time for frame in frames])) < 0.1


def test_a_variable_rate_follows_the_timestamps(clips: dict[str, bytes]) -> None:
    """Phones slow down in the dark; the container has the duration of each frame."""
    frames = read(_slowing(clips["mp4"]))
    gaps = np.diff([frame.time for frame in frames])
    assert len(frames) == 30
    assert gaps[:14] == pytest.approx(1 / 15, abs=0.002)
    assert gaps[15:] == pytest.approx(2 / 15, abs=0.002)


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        (replace(LIMITS, seconds=1), "too_long"),
        (replace(LIMITS, frames=20), "too_many_frames"),
        (replace(LIMITS, pixels=96 * 160 - 1), "too_many_pixels"),
    ],
)
def test_limits_are_enforced(limits: VideoLimits, code: str, clips: dict[str, bytes]) -> None:
    assert fault(clips["mp4"], limits) == FAULTS[code].format(seconds=limits.seconds)


def test_a_large_file_is_refused_without_reading_it(clips: dict[str, bytes]) -> None:
    with pytest.raises(PayloadTooLarge):
        read(clips["mp4"], replace(LIMITS, bytes=len(clips["mp4"]) - 1))


def test_a_false_size_in_the_header_costs_no_memory(clips: dict[str, bytes]) -> None:
    """The size in the header is checked before the first frame is decoded."""
    data = clips["mp4"].replace(struct.pack(">HH", 160, 96), struct.pack(">HH", 60000, 60000))
    assert data != clips["mp4"]
    try:
        frames = read(data)
    except InvalidVideo:
        return
    assert frames[0].pixels.size <= 640 * 640 * 3  # the codec knew better


def test_audio_without_video_is_refused(clips: dict[str, bytes]) -> None:
    data = clips["avi"].replace(b"vids", b"auds")
    assert fault(data) in {FAULTS["unreadable"], FAULTS["no_frames"]}


def test_memory_and_time_are_limited(clips: dict[str, bytes]) -> None:
    assert "memory and time" in fault(clips["mp4"], replace(LIMITS, memory_bytes=60 << 20))
    assert "memory and time" in fault(clips["mp4"], replace(LIMITS, wait_seconds=0.0))


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_all_frames_of_a_large_clip_fit_in_the_memory_of_a_few(codec: str) -> None:
    """One is in memory at a time; 100 in 4K would fill the decoder's limit."""
    assert len(read(_still(codec, 60), replace(LIMITS, memory_bytes=400 << 20))) == 60


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_memory_that_ends_within_a_clip_is_not_taken_for_damage(codec: str) -> None:
    limits = replace(LIMITS, memory_bytes=240 << 20)
    assert fault(_still(codec, 30), limits) == FAULTS["limits"]


def test_other_work_runs_while_the_decoder_is_busy(
    clips: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other work runs while a clip is slow to decode, and the decoder ends when it is cancelled."""
    script = tmp_path / "child.py"
    script.write_text("import time; time.sleep(60)")
    monkeypatch.setattr(video, "_CHILD", script)
    calls: list[float] = []

    def check() -> None:
        calls.append(time.monotonic())
        if len(calls) == 10:
            raise DeadlineExceeded("late")

    with pytest.raises(DeadlineExceeded):
        list(read_frames(clips["mp4"], LIMITS, check))
    assert calls[-1] - calls[0] < 9 * 0.05 * 10
    assert not [p for p in psutil.Process().children() if str(script) in str(p.cmdline())]


def test_skipped_frames_are_not_decoded_endlessly(tmp_path: Path) -> None:
    """The clip has two thousand frames per second, of which 15 are returned."""
    data = write_video(tmp_path / "burst.mp4", moving(200), 2000)
    assert fault(data) == FAULTS["too_fast"]
    # Slow motion of a phone.
    assert 14 <= len(read(write_video(tmp_path / "slow.mp4", moving(240), 240))) <= 17


def test_closing_the_iterator_ends_the_process(clips: dict[str, bytes]) -> None:
    frames = read_frames(clips["avi"], LIMITS)
    next(frames)
    (child,) = [p for p in psutil.Process().children() if "video_child" in " ".join(p.cmdline())]
    frames.close()
    assert not child.is_running()


def test_the_decoder_has_few_resources_and_permissions(
    clips: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPSIN_API_KEY", "secret-of-sixteen-letters")
    with Path(os.devnull).open("rb") as own:
        os.set_inheritable(own.fileno(), True)  # even this one is not inherited
        frames = read_frames(clips["avi"], LIMITS)
        next(frames)
        (child,) = [p for p in psutil.Process().children() if "video_child" in str(p.cmdline())]
        opened = {fd.readlink().name for fd in Path(f"/proc/{child.pid}/fd").iterdir()}
        environment = Path(f"/proc/{child.pid}/environ").read_text()
        process_limits = Path(f"/proc/{child.pid}/limits").read_text()
        frames.close()
    assert "secret" not in environment
    assert "PATH=" not in environment
    assert len([name for name in opened if "upload" in name]) == 1
    assert {name for name in opened if "upload" not in name} <= {"null"} | {
        name for name in opened if name.startswith("pipe:")
    }
    limits = {line[:26].strip(): line[26:46].strip() for line in process_limits.splitlines()}
    assert limits["Max address space"] == str(LIMITS.memory_bytes)
    assert limits["Max cpu time"] == str(LIMITS.cpu_seconds)
    assert limits["Max processes"] == limits["Max file size"] == "0"


def test_a_compromised_decoder_is_not_trusted(
    clips: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any output gives either frames within the limits or an error."""
    pack = video_child.RECORD.pack
    frame = pack(b"F", 0.0, 2, 2, 12) + bytes(12)
    outputs = [
        pack(b"F", 0.0, 60000, 60000, 2**32 - 1),
        pack(b"F", 0.0, 2, 2, 11) + bytes(11),
        pack(b"F", float("nan"), 2, 2, 12) + bytes(12),
        frame + frame,  # time does not advance
        pack(b"F", 31.0, 2, 2, 12) + bytes(12),
        pack(b"?", 0.0, 2, 2, 12) + bytes(12),
        pack(b"X", 0.0, 0, 0, 4) + b"[{}]",
        pack(b"X", 0.0, 0, 0, 2**31) + b"x" * 100,
        frame[:20],
        b"",
    ]
    for output in outputs:
        script = tmp_path / "child.py"
        script.write_text(f"import sys; sys.stdout.buffer.write({output!r})")
        monkeypatch.setattr(video, "_CHILD", script)
        assert fault(clips["mp4"]) == video._NOT_DECODED


def test_the_decoder_imports_nothing_of_opsin() -> None:
    source = Path(video._CHILD).read_text()
    assert "from models" not in source
    assert "from contracts" not in source
    done = subprocess.run(
        [sys.executable, "-I", str(video._CHILD), "0", "mov", json.dumps(asdict(LIMITS))],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        env={},
    )
    assert done.stdout.startswith(b"X"), done.stderr


def _still(codec: str, count: int) -> bytes:
    """A clip in 4K at 15 frames a second that shows one color."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        options = {"preset": "ultrafast"} if codec == "libx264" else {}
        stream: Any = out.add_stream(codec, rate=15, options=options)
        stream.width, stream.height, stream.pix_fmt = 3840, 2160, "yuv420p"
        frame = av.VideoFrame(3840, 2160, "yuv420p")
        for plane in frame.planes:
            plane.update(bytes([90]) * plane.buffer_size)
        for number in range(count):
            frame.pts = number
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return file.getvalue()


def _boxes(data: bytes, start: int = 0, end: int | None = None) -> dict[bytes, tuple[int, int]]:
    """Positions of the boxes of an MP4: name to (start, end)."""
    boxes, offset = {}, start
    while offset + 8 <= (end or len(data)):
        size, name = struct.unpack_from(">I4s", data, offset)
        boxes[name] = (offset, offset + size)
        offset += max(size, 8)
    return boxes


def _inside(data: bytes, *path: bytes) -> tuple[int, int]:
    start, end = 0, len(data)
    for name in path:
        start, end = _boxes(data, start, end)[name]
        start += 8
    return start, end


def _rotated(data: bytes, degrees: int) -> bytes:
    """Add the matrix that a phone writes when it is held upright."""
    turns = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}
    return _with_matrix(data, turns[degrees])


def _with_matrix(data: bytes, matrix: tuple[int, int, int, int]) -> bytes:
    a, b, c, d = (value << 16 for value in matrix)
    start, _ = _inside(data, b"moov", b"trak", b"tkhd")
    out = bytearray(data)
    struct.pack_into(">9i", out, start + 40, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    return bytes(out)


def _slowing(data: bytes) -> bytes:
    """Double the duration of every frame from the fifteenth on."""
    start, end = _inside(data, b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stts")
    count, frames, lasts = struct.unpack_from(">III", data, start + 4)
    assert (count, frames) == (1, 30)
    table = struct.pack(">IIIIII", 0, 2, 15, lasts, 15, 2 * lasts)[4:]
    box = struct.pack(">I4sI", 8 + 4 + len(table), b"stts", 0) + table
    out = bytearray(data)
    out[start - 8 : end] = box
    for depth in range(1, 6):
        path = (b"moov", b"trak", b"mdia", b"minf", b"stbl")[:depth]
        offset = _inside(data, *path)[0] - 8
        (size,) = struct.unpack_from(">I", data, offset)
        struct.pack_into(">I", out, offset, size + 8)
    # The edit list has the old duration.
    return bytes(out).replace(b"edts", b"free")


def _faststart(data: bytes) -> bytes:
    """Move the index before the frames, and adjust its offsets."""
    (start, end), (media, _) = _boxes(data)[b"moov"], _boxes(data)[b"mdat"]
    assert media < start
    index = bytearray(data[start:end])
    start_of_table, _ = _inside(bytes(index), b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stco")
    (count,) = struct.unpack_from(">I", index, start_of_table + 4)
    first = start_of_table + 8
    for place in range(first, first + 4 * count, 4):
        (offset,) = struct.unpack_from(">I", index, place)
        struct.pack_into(">I", index, place, offset + len(index))
    return data[:media] + bytes(index) + data[media:start] + data[end:]


def test_real_clips_can_be_read(shared: Path) -> None:
    for path in sorted((shared / "data" / "face-videos").glob("*.mp4")):
        frames = read(path.read_bytes())
        count = cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FRAME_COUNT)
        assert 20 <= len(frames) <= count
        assert all(frame.pixels.std() > 5 for frame in frames)

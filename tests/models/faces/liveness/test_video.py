"""Clips of every container, whole and broken, through the real decoder in its own process."""

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

import cv2
import numpy as np
import psutil
import pytest

from contracts.errors import DeadlineExceeded, InvalidVideo, PayloadTooLarge
from contracts.queue.messages import Pixels
from models.faces.liveness import video
from models.faces.liveness.video import FAULTS, Frame, VideoLimits, read_frames
from models.faces.liveness.video_formats import AVI, MOV, MP4, WEBM, sniff_video
from tests.models.faces.rendering import CODECS, write_video

LIMITS = VideoLimits()


def moving(count: int, size: tuple[int, int] = (96, 160)) -> Iterator[Pixels]:
    """A bright bar that goes to the right over a dark ground, red at the picture's left edge."""
    height, width = size
    for at in range(count):
        picture = np.full((height, width, 3), 40, np.uint8)
        picture[:, :12] = (220, 30, 30)
        left = 20 + at * (width - 40) // count
        picture[:, left : left + 16] = 230
        yield picture


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A clip of two seconds at 15 frames a second in each container."""
    folder = tmp_path_factory.mktemp("clips")
    return {kind: write_video(folder / f"clip.{kind}", moving(30), 15) for kind in CODECS}


def read(data: bytes, limits: VideoLimits = LIMITS) -> list[Frame]:
    return list(read_frames(data, limits))


def fault(data: bytes, limits: VideoLimits = LIMITS) -> str:
    with pytest.raises(InvalidVideo) as caught:
        read(data, limits)
    assert caught.value.code == "invalid_video"
    return caught.value.detail


@pytest.mark.parametrize("kind", CODECS)
def test_every_container_is_read(kind: str, clips: dict[str, bytes]) -> None:
    frames = read(clips[kind])
    assert len(frames) == 30
    assert [frame.at for frame in frames] == pytest.approx([n / 15 for n in range(30)], abs=0.002)
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
def test_a_container_is_known_by_its_first_bytes(head: bytes, kind: object) -> None:
    assert sniff_video(head) is kind


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:0\nfile:///etc/passwd\n",
        b"ffconcat version 1.0\nfile '/etc/passwd'\n",
        b"\xff\xd8\xff\xe0" + bytes(100),
        b"\0\0\0\x20ftypheic" + bytes(100),
        b"\0\0\0\x20ftypM4A " + bytes(100),
        b"RIFF\0\0\0\0WAVEfmt ",
        b"<?xml version='1.0'?><MPD/>",
    ],
)
def test_what_is_no_video_never_meets_the_decoder(
    data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video, "_Decoder", None)
    assert "Send" in fault(data)


def test_a_playlist_under_a_videos_head_is_not_followed(tmp_path: Path) -> None:
    """One parser is chosen by us; FFmpeg's own guess would find the playlist."""
    data = b"\0\0\0\x08wide" + b"#EXTM3U\nfile:///etc/passwd\n" * 20
    assert fault(data) == FAULTS["unreadable"]


@pytest.mark.parametrize("kind", CODECS)
@pytest.mark.parametrize("part", [0.02, 0.5])
def test_a_file_that_is_cut_off_is_told(kind: str, part: float, clips: dict[str, bytes]) -> None:
    if kind == "webm" and part == 0.5:
        pytest.skip("one that is recorded live has no length, so its end cannot be missed")
    told = fault(clips[kind][: int(len(clips[kind]) * part)])
    assert told in {FAULTS["unreadable"], FAULTS["truncated"], FAULTS["no_frames"]}


def test_a_clip_whose_index_comes_first_is_cut_off_too(clips: dict[str, bytes]) -> None:
    """Phones put it last, servers first; then what is left can be decoded, but is half a clip."""
    assert fault(_faststart(clips["mp4"])[:-1600]) == FAULTS["truncated"]
    assert len(read(_faststart(clips["mp4"]))) == 30


def test_rubbish_in_the_middle_harms_nobody(clips: dict[str, bytes]) -> None:
    noise = np.random.default_rng(0)
    for kind in CODECS:
        data = bytearray(clips[kind])
        at = noise.integers(64, len(data), 200)
        for place in at:
            data[place] = noise.integers(256)
        with suppress(InvalidVideo):
            assert len(read(bytes(data))) <= 30


def test_a_phones_rotation_is_applied(clips: dict[str, bytes]) -> None:
    """The picture lies on its side in the file, and a matrix in the header says how to turn it."""
    upright = read(_rotated(clips["mp4"], 90))[0].pixels
    assert upright.shape == (160, 96, 3)
    # Turned clockwise, the left edge comes to the top.
    assert upright[4, 48][0] > 150 > upright[4, 48][2]
    assert read(_rotated(clips["mp4"], 270))[0].pixels[-4, 48][0] > 150
    assert read(_rotated(clips["mp4"], 180))[0].pixels[48, -4][0] > 150


def test_long_sides_are_reduced(tmp_path: Path) -> None:
    data = write_video(tmp_path / "tall.mp4", moving(4, (960, 544)), 10)
    assert read(data)[0].pixels.shape == (640, 363, 3)
    assert read(data, replace(LIMITS, long_side=480))[0].pixels.shape == (480, 272, 3)


def test_frames_beyond_the_rate_are_passed_over(tmp_path: Path) -> None:
    data = write_video(tmp_path / "fast.mp4", moving(90), 60)
    frames = read(data)
    assert 20 <= len(frames) <= 24  # 1.5 s at 15
    assert max(np.diff([frame.at for frame in frames])) < 0.1


def test_a_rate_that_varies_is_told_by_the_frames_own_times(clips: dict[str, bytes]) -> None:
    """Phones slow down in the dark: the container says for each frame how long it lasts."""
    frames = read(_slowing(clips["mp4"]))
    gaps = np.diff([frame.at for frame in frames])
    assert len(frames) == 30
    assert gaps[:14] == pytest.approx(1 / 15, abs=0.002)
    assert gaps[15:] == pytest.approx(2 / 15, abs=0.002)


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        (replace(LIMITS, seconds=1), "too_long"),
        (replace(LIMITS, frames=20), "too_many_frames"),
        (replace(LIMITS, pixels=96 * 160 - 1), "too_many_pixels"),
    ],
)
def test_limits_hold(limits: VideoLimits, told: str, clips: dict[str, bytes]) -> None:
    assert fault(clips["mp4"], limits) == FAULTS[told]


def test_a_large_file_is_refused_unread(clips: dict[str, bytes]) -> None:
    with pytest.raises(PayloadTooLarge):
        read(clips["mp4"], replace(LIMITS, bytes=len(clips["mp4"]) - 1))


def test_a_header_that_lies_about_its_size_costs_no_memory(clips: dict[str, bytes]) -> None:
    """The frame's claimed size is judged before the first frame is decoded."""
    data = clips["mp4"].replace(struct.pack(">HH", 160, 96), struct.pack(">HH", 60000, 60000))
    assert data != clips["mp4"]
    try:
        frames = read(data)
    except InvalidVideo:
        return
    assert frames[0].pixels.size <= 640 * 640 * 3  # the codec knew better


def test_a_sound_without_pictures(clips: dict[str, bytes]) -> None:
    data = clips["avi"].replace(b"vids", b"auds")
    assert fault(data) in {FAULTS["unreadable"], FAULTS["no_frames"]}


def test_memory_and_time_are_bounded(clips: dict[str, bytes]) -> None:
    assert "memory and time" in fault(clips["mp4"], replace(LIMITS, memory_bytes=60 << 20))
    assert "memory and time" in fault(clips["mp4"], replace(LIMITS, wait_seconds=0.0))


def test_others_go_first_while_the_decoder_is_at_work(
    clips: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clip that is slow to decode keeps nobody waiting, and ends when nobody waits for it."""
    script = tmp_path / "child.py"
    script.write_text("import time; time.sleep(60)")
    monkeypatch.setattr(video, "_CHILD", script)
    asked: list[float] = []

    def waiting() -> None:
        asked.append(time.monotonic())
        if len(asked) == 10:
            raise DeadlineExceeded("late")

    with pytest.raises(DeadlineExceeded):
        list(read_frames(clips["mp4"], LIMITS, waiting))
    assert asked[-1] - asked[0] < 9 * 0.05 * 10
    assert not [p for p in psutil.Process().children() if str(script) in str(p.cmdline())]


def test_frames_that_nobody_looks_at_are_not_decoded_without_end(tmp_path: Path) -> None:
    """A thousand of them lie within a second of which 15 are kept."""
    data = write_video(tmp_path / "burst.mp4", moving(200), 2000)
    assert fault(data) == FAULTS["too_fast"]
    # What a phone calls slow motion, and a rate that only varies.
    assert 14 <= len(read(write_video(tmp_path / "slow.mp4", moving(240), 240))) <= 17


def test_who_stops_reading_ends_the_process(clips: dict[str, bytes]) -> None:
    frames = read_frames(clips["avi"], LIMITS)
    next(frames)
    (child,) = [p for p in psutil.Process().children() if "video_child" in " ".join(p.cmdline())]
    frames.close()
    assert not child.is_running()


def test_the_decoder_has_nothing_and_may_do_nothing(
    clips: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPSIN_API_KEY", "secret-of-sixteen-letters")
    with Path(os.devnull).open("rb") as ours:
        os.set_inheritable(ours.fileno(), True)  # even this one is not given on
        frames = read_frames(clips["avi"], LIMITS)
        next(frames)
        (child,) = [p for p in psutil.Process().children() if "video_child" in str(p.cmdline())]
        opened = {fd.readlink().name for fd in Path(f"/proc/{child.pid}/fd").iterdir()}
        environment = Path(f"/proc/{child.pid}/environ").read_text()
        bounds = Path(f"/proc/{child.pid}/limits").read_text()
        frames.close()
    assert "secret" not in environment
    assert "PATH=" not in environment
    assert len([name for name in opened if "clip" in name]) == 1
    assert {name for name in opened if "clip" not in name} <= {"null"} | {
        name for name in opened if name.startswith("pipe:")
    }
    limits = {line[:26].strip(): line[26:46].strip() for line in bounds.splitlines()}
    assert limits["Max address space"] == str(LIMITS.memory_bytes)
    assert limits["Max cpu time"] == str(LIMITS.cpu_seconds)
    assert limits["Max processes"] == limits["Max file size"] == "0"


def test_a_decoder_that_was_taken_over_is_not_believed(
    clips: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever comes down the pipe ends in frames within the limits or in a refusal."""
    pack = video.RECORD.pack
    frame = pack(b"F", 0.0, 2, 2, 12) + bytes(12)
    lies = [
        pack(b"F", 0.0, 60000, 60000, 2**32 - 1),
        pack(b"F", 0.0, 2, 2, 11) + bytes(11),
        pack(b"F", float("nan"), 2, 2, 12) + bytes(12),
        frame + frame,  # time does not go on
        pack(b"F", 31.0, 2, 2, 12) + bytes(12),
        pack(b"?", 0.0, 2, 2, 12) + bytes(12),
        pack(b"X", 0.0, 0, 0, 4) + b"[{}]",
        pack(b"X", 0.0, 0, 0, 2**31) + b"x" * 100,
        frame[:20],
        b"",
    ]
    for lie in lies:
        script = tmp_path / "child.py"
        script.write_text(f"import sys; sys.stdout.buffer.write({lie!r})")
        monkeypatch.setattr(video, "_CHILD", script)
        assert fault(clips["mp4"]) == video._BROKEN


def test_the_decoder_imports_nothing_of_ours() -> None:
    source = Path(video._CHILD).read_text()
    assert "from models" not in source
    assert "from contracts" not in source
    done = subprocess.run(
        [sys.executable, "-I", str(video._CHILD), "0", json.dumps(asdict(LIMITS))],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        env={},
    )
    assert done.stdout.startswith(b"X"), done.stderr


def _boxes(data: bytes, start: int = 0, end: int | None = None) -> dict[bytes, tuple[int, int]]:
    """Where the boxes of an MP4 lie: name to (start, end)."""
    found, at = {}, start
    while at + 8 <= (end or len(data)):
        size, name = struct.unpack_from(">I4s", data, at)
        found[name] = (at, at + size)
        at += max(size, 8)
    return found


def _inside(data: bytes, *path: bytes) -> tuple[int, int]:
    start, end = 0, len(data)
    for name in path:
        start, end = _boxes(data, start, end)[name]
        start += 8
    return start, end


def _rotated(data: bytes, degrees: int) -> bytes:
    """With the matrix that a phone writes when it is held upright."""
    turns = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}
    a, b, c, d = (value << 16 for value in turns[degrees])
    start, _ = _inside(data, b"moov", b"trak", b"tkhd")
    out = bytearray(data)
    struct.pack_into(">9i", out, start + 40, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    return bytes(out)


def _slowing(data: bytes) -> bytes:
    """From its fifteenth frame on each one lasts twice as long."""
    start, end = _inside(data, b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stts")
    count, frames, lasts = struct.unpack_from(">III", data, start + 4)
    assert (count, frames) == (1, 30)
    table = struct.pack(">IIIIII", 0, 2, 15, lasts, 15, 2 * lasts)[4:]
    box = struct.pack(">I4sI", 8 + 4 + len(table), b"stts", 0) + table
    out = bytearray(data)
    out[start - 8 : end] = box
    for depth in range(1, 6):
        path = (b"moov", b"trak", b"mdia", b"minf", b"stbl")[:depth]
        at = _inside(data, *path)[0] - 8
        (size,) = struct.unpack_from(">I", data, at)
        struct.pack_into(">I", out, at, size + 8)
    # The list of edits says how long the whole was.
    return bytes(out).replace(b"edts", b"free")


def _faststart(data: bytes) -> bytes:
    """The index before the pictures, its offsets moved accordingly."""
    (start, end), (media, _) = _boxes(data)[b"moov"], _boxes(data)[b"mdat"]
    assert media < start
    index = bytearray(data[start:end])
    at, _ = _inside(bytes(index), b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stco")
    (count,) = struct.unpack_from(">I", index, at + 4)
    for place in range(at + 8, at + 8 + 4 * count, 4):
        (offset,) = struct.unpack_from(">I", index, place)
        struct.pack_into(">I", index, place, offset + len(index))
    return data[:media] + bytes(index) + data[media:start] + data[end:]


def test_the_real_clips(shared: Path) -> None:
    for path in sorted((shared / "data" / "face-videos").glob("*.mp4")):
        frames = read(path.read_bytes())
        count = cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FRAME_COUNT)
        assert 20 <= len(frames) <= count
        assert all(frame.pixels.std() > 5 for frame in frames)

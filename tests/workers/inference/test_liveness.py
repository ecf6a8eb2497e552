"""The lane `clip` without the queue around it: a real decoder and Valkey, painted faces."""

import time
from collections.abc import Iterator
from threading import Event
from typing import Any

import numpy as np
import pytest
import redis

from contracts.errors import DeadlineExceeded, Draining, InternalError, InvalidVideo
from contracts.faces.clips import ClipAsk, ClipNote, as_pixels, as_video
from contracts.queue import redis_keys
from contracts.queue.messages import Item, Reply
from models.faces.liveness.video import VideoLimits
from tests.models.faces.rendering import write_video
from tests.valkey import RealValkey
from tests.workers.jobs.test_enrollment import Painted, shot
from workers.inference.liveness import Clips, SeenClips
from workers.inference.queue import LaneName

LANE = LaneName("face_embedder", 1, "clip")
ACTIONS = ("turn_left", "turn_right", "close_eyes")


class Finder:
    """Painted faces, as `FaceAnalyser` asks for them."""

    def look(self, picture: Any, most: int) -> Any:
        found = Painted().find(picture, most)
        return type("Seen", (), {"faces": found, "total": len(found)})()

    def follow(self, picture: Any, _previous: Any) -> Any:
        return Painted().track(picture, None)


class Network:
    version = 1

    def run(self, operation: str, chips: Any) -> Any:
        assert operation == "embed"
        return Painted().embed(chips)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Left, right, eyes shut; the ground trembles as before a camera."""
    noise = np.random.default_rng(0)
    turns = [0] * 15 + [0.5] * 2 + [1] * 8 + [0.5] * 2 + [0] * 10
    parts = [(turn, 40) for turn in turns]
    parts += [(-turn, 40) for turn in turns[15:]] + [(0, 160)] * 8 + [(0, 40)] * 10
    frames = []
    for at, (turn, blue) in enumerate(parts):
        frame = shot(1, turn, blue).astype(int) + (at % 3)
        frames.append((frame + noise.integers(0, 3, frame.shape)).astype(np.uint8))
    return write_video(tmp_path_factory.mktemp("clip") / "clip.avi", iter(frames), 15)


@pytest.fixture
def client(valkey: RealValkey) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(valkey.url) as client:
        yield client


def clips_of(client: "redis.Redis", **changes: Any) -> Clips:
    options = {"is_abandoned": lambda _: False, "stopping": Event()} | changes
    return Clips(Finder, VideoLimits, SeenClips(client), **options)  # type: ignore[arg-type]


def item_of(video: bytes, *, seconds: float = 60, challenge: str = "ch_1", **changes: Any) -> Item:
    ask = ClipAsk(size=len(video), actions=ACTIONS, subject_id="sub_a", challenge_id=challenge)
    now = time.time()
    note = changes.get("note", ask.pack())
    item = Item(bytes(16), now + seconds, now, "replies:test", as_pixels(video), note=note)
    return Item.unpack(item.pack())


def test_a_file_travels_in_the_shape_of_a_picture() -> None:
    for size in (1, 12287, 12288, 12289, 100_000):
        data = np.random.default_rng(size).bytes(size)
        assert bytes(as_video(as_pixels(data), size)) == data
    with pytest.raises(ValueError, match="length"):
        as_video(as_pixels(b"123"), 20_000)


def test_a_clip_is_judged_and_remembered(client: "redis.Redis", video: bytes) -> None:
    way: list[int] = []
    answer = clips_of(client)
    (told,) = answer(LANE, Network(), [item_of(video)], lambda: way.append(1))  # type: ignore[arg-type]
    note = ClipNote.model_validate_json(told.note)
    assert note.liveness.live, note.liveness
    assert [seen.action for seen in note.liveness.actions] == list(ACTIONS)
    assert note.matched == 5
    assert note.frames > 60
    assert len(way) > note.frames, "between any two frames others go first"
    assert np.linalg.norm(told.vector) == pytest.approx(1, abs=1e-5)
    reply = Reply(bytes(16), 1, 1, 0, 0, vector=told.vector, note=told.note)
    assert Reply.unpack(reply.pack()).note == told.note
    # The same clip with another challenge; no embedding leaves the worker.
    (told,) = answer(LANE, Network(), [item_of(video, challenge="ch_2")], list)  # type: ignore[arg-type]
    note = ClipNote.model_validate_json(told.note)
    assert "replayed" in {fault.code for fault in note.liveness.faults}
    assert told.vector.size == 0
    assert client.llen(redis_keys.clips_seen("sub_a")) == 2


def test_nobody_waits_or_the_worker_stops(client: "redis.Redis", video: bytes) -> None:
    stopping = Event()
    stopping.set()
    for changes, item, error in (
        ({"stopping": stopping}, item_of(video), Draining),
        ({"is_abandoned": lambda _: True}, item_of(video), DeadlineExceeded),
        ({}, item_of(video, seconds=0), DeadlineExceeded),
        ({}, item_of(b"RIFF\0\0\0\0AVI nothing"), InvalidVideo),
        ({}, item_of(video, note=b"{}"), InternalError),
    ):
        with pytest.raises(error):
            clips_of(client, **changes)(LANE, Network(), [item], list)  # type: ignore[arg-type]
    assert client.llen(redis_keys.clips_seen("sub_a")) == 0

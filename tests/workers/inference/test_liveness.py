"""The operation `clip` without the queue: a real decoder and Valkey, fake faces."""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import redis

from contracts.errors import DeadlineExceeded, Draining, InternalError, InvalidVideo
from contracts.faces.clips import ClipReply, ClipRequest, pack_video, unpack_video
from contracts.queue import redis_keys
from contracts.queue.messages import Item, Reply
from contracts.queue.redis_keys import QueueName
from contracts.settings import Settings
from tests.models.faces.rendering import write_video
from tests.valkey import RealValkey
from tests.workers.inference.cancellation import cancellation_of
from tests.workers.jobs.test_enrollment import FakeAnalyzer, make_frame
from workers.inference.liveness import ClipOperation, RecentClips

QUEUE = QueueName("face_embedder", 1, "clip")
ACTIONS = ("turn_left", "turn_right", "close_eyes")


class FakeFinder:
    """Finds the faces of `FakeAnalyzer`."""

    def find(self, image: Any, max_faces: int) -> Any:
        found = FakeAnalyzer().find(image, max_faces)
        return type("Seen", (), {"faces": found, "total": len(found)})()

    def track(self, image: Any, _previous: Any) -> Any:
        return FakeAnalyzer().track(image, None)


class Network:
    version = 1

    def run(self, operation: str, crops: Any) -> Any:
        assert operation == "embed"
        return FakeAnalyzer().embed(crops)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Left, right, eyes shut; the ground trembles as before a camera."""
    noise = np.random.default_rng(0)
    turns = [0] * 15 + [0.5] * 2 + [1] * 8 + [0.5] * 2 + [0] * 10
    parts = [(turn, 40) for turn in turns]
    parts += [(-turn, 40) for turn in turns[15:]] + [(0, 160)] * 8 + [(0, 40)] * 10
    frames = []
    for at, (turn, blue) in enumerate(parts):
        frame = make_frame(1, turn, blue).astype(int) + (at % 3)
        frames.append((frame + noise.integers(0, 3, frame.shape)).astype(np.uint8))
    return write_video(tmp_path_factory.mktemp("clip") / "clip.avi", iter(frames), 15)


@pytest.fixture
def client(valkey: RealValkey) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(valkey.url) as client:
        yield client


class FakeFaces:
    def finder(self) -> FakeFinder:
        return FakeFinder()


def clips_of(client: "redis.Redis", **changes: bool) -> ClipOperation:
    settings = Settings(_env_file=None)
    return ClipOperation(FakeFaces(), RecentClips(client), cancellation_of(**changes), settings)  # type: ignore[arg-type]


def item_of(video: bytes, *, seconds: float = 60, challenge: str = "ch_1", **changes: Any) -> Item:
    request = ClipRequest(
        size=len(video), actions=ACTIONS, subject_id="sub_a", challenge_id=challenge
    )
    now = time.time()
    note = changes.get("note", request.pack())
    item = Item(bytes(16), now + seconds, now, "replies:test", pack_video(video), note=note)
    return Item.unpack(item.pack())


def test_file_travels_in_the_shape_of_an_image() -> None:
    for size in (1, 12287, 12288, 12289, 100_000):
        data = np.random.default_rng(size).bytes(size)
        assert bytes(unpack_video(pack_video(data), size)) == data
    with pytest.raises(ValueError, match="shorter"):
        unpack_video(pack_video(b"123"), 20_000)


def test_clip_is_judged_and_replay_is_recognized(client: "redis.Redis", video: bytes) -> None:
    yielded: list[int] = []
    clips = clips_of(client)
    (output,) = clips.compute(QUEUE, Network(), [item_of(video)], lambda: yielded.append(1))  # type: ignore[arg-type]
    note = ClipReply.model_validate_json(output.note)
    assert note.liveness.live, note.liveness
    assert [seen.action for seen in note.liveness.actions] == list(ACTIONS)
    assert note.matched == 5
    assert note.frames > 60
    assert len(yielded) > note.frames, "between any two frames, faster queues may run"
    assert np.linalg.norm(output.vector) == pytest.approx(1, abs=1e-5)
    reply = Reply(bytes(16), 1, 1, 0, 0, vector=output.vector, note=output.note)
    assert Reply.unpack(reply.pack()).note == output.note
    # The same clip with another challenge; no embedding leaves the worker.
    (output,) = clips.compute(QUEUE, Network(), [item_of(video, challenge="ch_2")], list)  # type: ignore[arg-type]
    note = ClipReply.model_validate_json(output.note)
    assert "replayed" in {fault.code for fault in note.liveness.faults}
    assert output.vector.size == 0
    assert client.llen(redis_keys.recent_clips("sub_a")) == 2


def test_clip_fails_without_client_or_readable_video(client: "redis.Redis", video: bytes) -> None:
    for changes, item, error in (
        ({"stopping": True}, item_of(video), Draining),
        ({"abandoned": True}, item_of(video), DeadlineExceeded),
        ({}, item_of(video, seconds=0), DeadlineExceeded),
        ({}, item_of(b"RIFF\0\0\0\0AVI nothing"), InvalidVideo),
        ({}, item_of(video, note=b"{}"), InternalError),
    ):
        with pytest.raises(error):
            clips_of(client, **changes).compute(QUEUE, Network(), [item], list)  # type: ignore[arg-type]
    assert client.llen(redis_keys.recent_clips("sub_a")) == 0

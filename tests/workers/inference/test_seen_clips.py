"""What is remembered of clips, in a real Valkey."""

import pytest
import redis

from contracts.errors import SubjectNotFound
from contracts.queue import redis_keys
from models.faces.liveness.perceptual_hash import LOOK_BYTES, MOST_LOOKS
from tests.valkey import RealValkey
from workers.inference.liveness import KEEP_SECONDS, MOST_CLIPS, SeenClips


def looks(number: int, count: int = 5) -> list[bytes]:
    return [bytes([number]) * LOOK_BYTES for _ in range(count)]


def test_a_clip_is_told_of_those_before_it(valkey: RealValkey) -> None:
    with redis.Redis.from_url(valkey.url) as client:
        seen = SeenClips(client)
        assert seen.put("sub_a", "ch_1", looks(1)) == []
        assert seen.put("sub_a", "ch_2", looks(2)) == [looks(1)]
        assert seen.put("sub_a", "ch_3", looks(3)) == [looks(2), looks(1)]
        # A second attempt at the same clip is no replay of it; another subject's are none of ours.
        assert seen.put("sub_a", "ch_3", looks(3)) == [looks(2), looks(1)]
        assert seen.put("sub_b", "ch_4", looks(1)) == []


def test_they_are_few_small_and_go(valkey: RealValkey) -> None:
    with redis.Redis.from_url(valkey.url) as client:
        seen = SeenClips(client)
        for number in range(2 * MOST_CLIPS):
            others = seen.put("sub_a", f"ch_{number}", looks(number, MOST_LOOKS))
        assert len(others) == MOST_CLIPS - 1
        key = redis_keys.clips_seen("sub_a")
        assert 0 < client.ttl(key) <= KEEP_SECONDS
        assert client.memory_usage(key) < 64 * 1024


def test_of_who_was_erased_nothing_is_kept(valkey: RealValkey) -> None:
    with redis.Redis.from_url(valkey.url) as client:
        client.set(redis_keys.erased("sub_a"), b"1")
        with pytest.raises(SubjectNotFound):
            SeenClips(client).put("sub_a", "ch_1", looks(1))
        assert client.keys("clips:*") == []
        assert SeenClips(client).put("sub_b", "ch_1", looks(1)) == []

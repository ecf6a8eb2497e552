"""The hashes of recent clips, in a real Valkey."""

import base64
import json

import pytest
import redis

from contracts.errors import SubjectNotFound
from contracts.queue import redis_keys
from models.faces.liveness.perceptual_hash import HASH_BYTES, MAX_HASHES
from tests.valkey import RealValkey
from workers.inference.liveness import KEEP_SECONDS, MAX_CLIPS, RecentClips


def hashes(number: int, count: int = 5) -> list[bytes]:
    return [bytes([number]) * HASH_BYTES for _ in range(count)]


def test_add_returns_the_earlier_clips_of_the_subject(valkey: RealValkey) -> None:
    with redis.Redis.from_url(valkey.url) as client:
        recent = RecentClips(client)
        assert recent.add("sub_a", "ch_1", hashes(1)) == []
        assert recent.add("sub_a", "ch_2", hashes(2)) == [hashes(1)]
        assert recent.add("sub_a", "ch_3", hashes(3)) == [hashes(2), hashes(1)]
        # A second attempt with the same clip is not a replay; subjects are separate.
        assert recent.add("sub_a", "ch_3", hashes(3)) == [hashes(2), hashes(1)]
        assert recent.add("sub_b", "ch_4", hashes(1)) == []


def test_clips_are_few_and_expire(valkey: RealValkey) -> None:
    with redis.Redis.from_url(valkey.url) as client:
        recent = RecentClips(client)
        key = redis_keys.recent_clips("sub_a")
        old = json.dumps(["ch_old", base64.b64encode(b"".join(hashes(7, MAX_HASHES))).decode()])
        client.rpush(key, *[old] * MAX_CLIPS)
        others = recent.add("sub_a", "ch_new", hashes(1, MAX_HASHES))
        assert len(others) == MAX_CLIPS - 1
        assert 0 < client.ttl(key) <= KEEP_SECONDS
        assert client.memory_usage(key, samples=0) < 4 * 2**20


def test_junk_does_not_displace_a_clip(valkey: RealValkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen clips did, and enrollments are not limited by lockouts at all."""
    assert MAX_CLIPS > 4 * 240, "failed logins that lockouts allow in four days"
    monkeypatch.setattr("workers.inference.liveness.MAX_CLIPS", 30)
    with redis.Redis.from_url(valkey.url) as client:
        recent = RecentClips(client)
        recent.add("sub_a", "ch_known", hashes(1))
        for number in range(20):
            recent.add("sub_a", f"ch_{number}", hashes(2))
        for number in range(40):
            recent.add("sub_a", f"ch_e{number}", hashes(3, 1), purpose="enroll")
        assert hashes(1) in recent.add("sub_a", "ch_again", hashes(1))
        assert hashes(1) in recent.add("sub_a", "ch_enrolled", hashes(1), purpose="enroll")


def test_nothing_is_stored_for_an_erased_subject(valkey: RealValkey) -> None:
    with redis.Redis.from_url(valkey.url) as client:
        client.set(redis_keys.erased("sub_a"), b"1")
        with pytest.raises(SubjectNotFound):
            RecentClips(client).add("sub_a", "ch_1", hashes(1))
        assert client.keys("clips:*") == []
        assert RecentClips(client).add("sub_b", "ch_1", hashes(1)) == []

import numpy as np

from service.explanation.cache import CachedExplanation, ExplanationCache, key_of


def entry(values: int) -> CachedExplanation:
    return CachedExplanation(np.zeros(values, np.float32), b"")


def test_cache_stays_within_its_bytes_and_keeps_recent_entries() -> None:
    one = entry(100).size
    cache = ExplanationCache(3 * one)
    keys = [("m", 1, b"", at, b"") for at in range(4)]
    for key in keys[:3]:
        cache.put(key, entry(100))
    assert cache.get(keys[0]) is not None
    cache.put(keys[3], entry(100))
    assert len(cache) == 3
    assert cache.bytes == 3 * one
    assert cache.get(keys[1]) is None, "the one asked for longest ago"
    assert cache.get(keys[0]) is not None
    cache.put(keys[0], entry(100))
    assert cache.bytes == 3 * one, "the same again takes no more"


def test_entry_larger_than_the_cache_is_dropped() -> None:
    cache = ExplanationCache(1000)
    cache.put(("m", 1, b"", 0, b""), entry(1000))
    assert (len(cache), cache.bytes) == (0, 0)


def test_key_depends_on_every_part_of_the_request() -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    keys = {
        key_of("m", 1, b"a", 3, pixels),
        key_of("n", 1, b"a", 3, pixels),
        key_of("m", 2, b"a", 3, pixels),
        key_of("m", 1, b"b", 3, pixels),
        key_of("m", 1, b"a", -1, pixels),
        key_of("m", 1, b"a", 3, pixels.reshape(1, 4, 3)),
        key_of("m", 1, b"a", 3, pixels + np.uint8(1)),
    }
    assert len(keys) == 7
    assert key_of("m", 1, b"a", 3, pixels.copy()) in keys

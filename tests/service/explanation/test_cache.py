import numpy as np

from service.explanation.cache import CachedExplanation, ExplanationCache, key_of


def kept(values: int) -> CachedExplanation:
    return CachedExplanation(np.zeros(values, np.float32), b"")


def test_it_never_grows_beyond_its_bytes_and_keeps_what_was_asked_last() -> None:
    one = kept(100).size
    cache = ExplanationCache(3 * one)
    keys = [("m", 1, b"", at, b"") for at in range(4)]
    for key in keys[:3]:
        cache.put(key, kept(100))
    assert cache.get(keys[0]) is not None
    cache.put(keys[3], kept(100))
    assert len(cache) == 3
    assert cache.bytes == 3 * one
    assert cache.get(keys[1]) is None, "the one asked for longest ago"
    assert cache.get(keys[0]) is not None
    cache.put(keys[0], kept(100))
    assert cache.bytes == 3 * one, "the same again takes no more"


def test_what_is_larger_than_all_is_not_kept() -> None:
    cache = ExplanationCache(1000)
    cache.put(("m", 1, b"", 0, b""), kept(1000))
    assert (len(cache), cache.bytes) == (0, 0)


def test_every_part_of_the_question_counts() -> None:
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

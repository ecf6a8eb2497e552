import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from models.training.data.feature_cache import FeatureCache

NAMESPACE = "ab" * 32
ROOT = Path(__file__).resolve().parents[4]


def keys(*numbers: int) -> list[bytes]:
    return [number.to_bytes(32, "big") for number in numbers]


def features(*numbers: int) -> np.ndarray:
    return np.array([[number, number + 0.5, -number] for number in numbers], np.float32)


def read(
    cache: FeatureCache, *numbers: int, namespace: str = NAMESPACE
) -> tuple[np.ndarray, list[bool]]:
    into = np.full((len(numbers), 3), np.nan, np.float32)
    hits = cache.read(namespace, keys(*numbers), into)
    return into, hits.tolist()


def test_written_features_are_found_by_key(tmp_path: Path) -> None:
    FeatureCache(tmp_path).write(NAMESPACE, keys(1, 2, 3), features(1, 2, 3))
    FeatureCache(tmp_path).write(NAMESPACE, keys(4), features(4))
    into, hits = read(FeatureCache(tmp_path), 4, 9, 2, 4)
    assert hits == [True, False, True, True]
    np.testing.assert_array_equal(into[[0, 2, 3]], features(4, 2, 4))
    assert read(FeatureCache(tmp_path), 2, namespace="cd" * 32)[1] == [False]


def test_full_disk_is_not_an_error(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    cache = FeatureCache(tmp_path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        cache.write(NAMESPACE, keys(*range(99)), features(*range(99)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.glob("*/*")) == []
    assert read(cache, 1)[1] == [False]
    cache.write(NAMESPACE, keys(1), features(1))
    assert read(cache, 1)[1] == [True]


def test_the_cache_leaves_room_on_the_disk(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, kept_bytes=10**18)
    cache.write(NAMESPACE, keys(1), features(1))
    assert read(cache, 1)[1] == [False]


def test_least_recently_used_shards_are_evicted(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    for number in (1, 2, 3):
        cache.write(NAMESPACE, keys(number), features(number))
        for shard in tmp_path.glob("*/*.npz"):  # the file system's clock is coarse
            os.utime(shard, ns=(shard.stat().st_atime_ns, shard.stat().st_mtime_ns - 10**9))
    read(cache, 1)
    size = next(tmp_path.glob("*/*.npz")).stat().st_size
    small = FeatureCache(tmp_path, limit_bytes=3 * size)
    small.write(NAMESPACE, keys(4), features(4))
    assert [read(small, number)[1][0] for number in (1, 2, 3, 4)] == [True, False, True, True]
    assert sum(shard.stat().st_size for shard in tmp_path.glob("*/*")) <= 3 * size


@pytest.mark.parametrize("damage", [b"", b"not a zip", None])
def test_damaged_shard_is_deleted(tmp_path: Path, damage: bytes | None) -> None:
    cache = FeatureCache(tmp_path)
    cache.write(NAMESPACE, keys(1), features(1))
    (shard,) = tmp_path.glob("*/*.npz")
    raw = bytearray(shard.read_bytes())
    offset = bytes(raw).index(features(1).tobytes())
    raw[offset] ^= 1  # one bit of one feature
    shard.write_bytes(bytes(raw) if damage is None else damage)
    assert read(cache, 1)[1] == [False]
    assert not shard.exists()


def test_features_of_another_shape_are_ignored(tmp_path: Path) -> None:
    FeatureCache(tmp_path).write(NAMESPACE, keys(1), np.ones((1, 7), np.float32))
    assert read(FeatureCache(tmp_path), 1)[1] == [False]


def test_only_old_temporary_files_are_removed(tmp_path: Path) -> None:
    (tmp_path / NAMESPACE).mkdir()
    old, young = tmp_path / NAMESPACE / ".old.tmp", tmp_path / NAMESPACE / ".young.tmp"
    old.touch()
    young.touch()
    os.utime(old, (0, time.time() - 7200))
    FeatureCache(tmp_path).write(NAMESPACE, keys(1), features(1))
    assert young.exists()
    assert not old.exists()


WRITER = """
import sys, numpy as np
from pathlib import Path
from models.training.data.feature_cache import FeatureCache
cache, first = FeatureCache(Path(sys.argv[1])), int(sys.argv[2])
for n in range(first, first + 100_000):
    rows = [n * 50 + i for i in range(50)]
    cache.write("ab" * 32, [r.to_bytes(32, "big") for r in rows],
                np.array([[r, r + 0.5, -r] for r in rows], np.float32))
    if n == first: print("begun", flush=True)
"""


def test_killed_writers_leave_only_complete_shards(tmp_path: Path) -> None:
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(first)],
            stdout=subprocess.PIPE, cwd=ROOT,
        )
        for first in (0, 0, 1_000_000)
    ]  # fmt: skip
    for writer in writers:
        assert writer.stdout
        assert writer.stdout.readline() == b"begun\n"
    time.sleep(0.2)
    for writer in writers:
        writer.send_signal(signal.SIGKILL)
        writer.communicate(timeout=60)
    into, hits = read(FeatureCache(tmp_path), *range(50))
    assert all(hits)
    np.testing.assert_array_equal(into, features(*range(50)))

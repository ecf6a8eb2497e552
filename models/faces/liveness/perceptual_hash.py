"""Perceptual hashes of the frames of a clip, by which the same recording is recognized again.

A difference hash (N. Krawetz, "Kind of Like That", 2013): the frame as 17 x 16 gray cells, one bit
for each pair of horizontal neighbors. It recognizes the same recording even if it was trimmed or
recompressed. The face cannot be reconstructed from it, and another recording of the same person in
the same place differs, because the head is never in the same positions at the same times.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from contracts.queue.messages import Pixels

HASH_BYTES = 32
"""Size of the hash of one frame."""
MAX_HASHES = 64
"""Hashes stored per clip."""
_SAMPLE_SECONDS = 0.25
_MIN_HASHES = 4  # with fewer, clips are not compared
_SAME_BITS = 12  # differing bits of 256; compression alone changes fewer
_SAME_SHARE = 0.7  # of a clip's hashes, found in the other clip in the same order


def hash_image(image: Pixels) -> bytes:
    """The hash of a frame, RGB uint8 (height, width, 3)."""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    cells = cv2.resize(gray, (17, 16), interpolation=cv2.INTER_AREA).astype(np.int16)
    return np.packbits(cells[:, 1:] > cells[:, :-1]).tobytes()


def sample_hashes(times: Sequence[float], hashes: Sequence[bytes]) -> list[bytes]:
    """The hashes of a clip to store: one every quarter of a second, at most `MAX_HASHES`.

    Args:
        times: Of the frames, in seconds.
    """
    sampled: list[bytes] = []
    due = 0.0
    for time, image_hash in zip(times, hashes, strict=True):
        if time >= due and len(sampled) < MAX_HASHES:
            sampled.append(image_hash)
            due = time + _SAMPLE_SECONDS
    return sampled


def is_replay(times: Sequence[float], hashes: Sequence[bytes], earlier: Sequence[bytes]) -> bool:
    """Whether one of two clips contains most of the other in the same order.

    Args:
        times: Of the frames of the new clip, in seconds.
        hashes: Of these frames.
        earlier: The result of `sample_hashes` for the earlier clip.
    """
    shorter = min(len(sample_hashes(times, hashes)), len(earlier))
    if shorter < _MIN_HASHES:
        return False
    same = _distances(_words(earlier), _words(hashes)) <= _SAME_BITS
    if np.count_nonzero(same.any(axis=1)) < _SAME_SHARE * shorter:
        return False  # as for almost all clips, and much faster
    return _longest_common_subsequence(same) >= _SAME_SHARE * shorter


def _words(hashes: Sequence[bytes]) -> npt.NDArray[np.uint64]:
    return np.frombuffer(b"".join(hashes), np.uint64).reshape(len(hashes), HASH_BYTES // 8)


def _distances(
    first: npt.NDArray[np.uint64], second: npt.NDArray[np.uint64]
) -> npt.NDArray[np.int64]:
    """Number of differing bits of each pair, shape (n, m)."""
    counts: npt.NDArray[np.uint8] = np.bitwise_count(first[:, None] ^ second[None])
    distances: npt.NDArray[np.int64] = counts.sum(-1, dtype=np.int64)
    return distances


def _longest_common_subsequence(same: npt.NDArray[np.bool_]) -> int:
    """Length of the longest common subsequence, computed row by row."""
    best = np.zeros(same.shape[1] + 1, np.int64)
    for row in same:
        step = np.maximum(best[1:], np.where(row, best[:-1] + 1, 0))
        best[1:] = np.maximum.accumulate(step)
    return int(best[-1])

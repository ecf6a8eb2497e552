"""How a clip looks, in a few bytes a frame, so that the same clip is known when it comes again.

A difference hash (N. Krawetz, "Kind of Like That", 2013): the frame in 17 x 16 grey cells, one bit
for each two neighbours. It says whether it is the same recording, cut or compressed anew; it cannot
be turned back into a face, and a second recording of the same person in the same place differs,
since the head is never again in the same places at the same times.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from contracts.queue.messages import Pixels

LOOK_BYTES = 32
"""Of one frame's hash."""
MOST_LOOKS = 64
"""Kept of one clip."""
_EVERY_SECONDS = 0.25
_FEWEST = 4  # looks say nothing
_SAME_BITS = 12  # of 256; compression alone changes fewer
_SAME_PART = 0.7  # of a clip, found in the other in the same order


def look_of(picture: Pixels) -> bytes:
    """The hash of a frame.

    Args:
        picture: RGB uint8 (height, width, 3).
    """
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    cells = cv2.resize(grey, (17, 16), interpolation=cv2.INTER_AREA).astype(np.int16)
    return np.packbits(cells[:, 1:] > cells[:, :-1]).tobytes()


def looks_kept(times: Sequence[float], looks: Sequence[bytes]) -> list[bytes]:
    """What of a clip is kept: a look every quarter of a second, never more than `MOST_LOOKS`.

    Args:
        times: Of the frames, in seconds.
        looks: Of the frames.
    """
    kept: list[bytes] = []
    due = 0.0
    for at, look in zip(times, looks, strict=True):
        if at >= due and len(kept) < MOST_LOOKS:
            kept.append(look)
            due = at + _EVERY_SECONDS
    return kept


def is_replay(times: Sequence[float], looks: Sequence[bytes], earlier: Sequence[bytes]) -> bool:
    """Whether most of an earlier clip comes again, in its order, or most of this one was in it.

    Args:
        times: Of every frame of the new clip, in seconds.
        looks: Their looks.
        earlier: What `looks_kept` kept of the earlier clip.
    """
    shorter = min(len(looks_kept(times, looks)), len(earlier))
    if shorter < _FEWEST:
        return False
    same = _distances(_bits(earlier), _bits(looks)) <= _SAME_BITS
    return _in_order(same) >= _SAME_PART * shorter


def _bits(looks: Sequence[bytes]) -> npt.NDArray[np.uint8]:
    return np.frombuffer(b"".join(looks), np.uint8).reshape(len(looks), LOOK_BYTES)


def _distances(one: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Differing bits of each pair, shape (n, m)."""
    counts: npt.NDArray[np.uint8] = np.bitwise_count(one[:, None] ^ other[None])
    distances: npt.NDArray[np.int64] = counts.sum(-1, dtype=np.int64)
    return distances


def _in_order(same: npt.NDArray[np.bool_]) -> int:
    """The length of the longest common subsequence, a row at a time."""
    best = np.zeros(same.shape[1] + 1, np.int64)
    for row in same:
        step = np.maximum(best[1:], np.where(row, best[:-1] + 1, 0))
        best[1:] = np.maximum.accumulate(step)
    return int(best[-1])

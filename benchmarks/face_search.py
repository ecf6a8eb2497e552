"""How long a search among 100,000 templates in memory takes, and how much memory they need.

Synthetic vectors: the product takes the same time whatever the vectors mean.

    python -m benchmarks.face_search [templates] [searches]
"""

import sys
import time

import numpy as np

from benchmarks.machine import describe
from contracts.faces.subjects import LENGTH
from database.faces.gallery import Shelf

_TEMPLATES_EACH = 5


def measure(templates: int, searches: int) -> dict[str, float]:
    """Milliseconds a search, by the clock and of a core, and MB in all.

    On a machine that does other things as well, the second is the one to believe.
    """
    random = np.random.default_rng(8)
    shelf = Shelf()
    for at in range(templates // _TEMPLATES_EACH):
        drawn = random.normal(size=(_TEMPLATES_EACH, LENGTH)).astype(np.float32)
        shelf.put(f"sub_{at}", drawn / np.linalg.norm(drawn, axis=1, keepdims=True))
    seconds: list[float] = []
    worked: list[float] = []
    for _ in range(searches):
        asked = random.normal(size=(1, LENGTH)).astype(np.float32)
        asked /= np.linalg.norm(asked)
        began, at_work = time.perf_counter(), time.thread_time()
        shelf.nearest(asked, above=0.3, most=6)
        seconds.append(time.perf_counter() - began)
        worked.append(time.thread_time() - at_work)
    return {
        "templates": len(shelf.vectors),
        "p50_ms": float(np.percentile(seconds, 50) * 1000),
        "p99_ms": float(np.percentile(seconds, 99) * 1000),
        "p50_cpu_ms": float(np.percentile(worked, 50) * 1000),
        "p99_cpu_ms": float(np.percentile(worked, 99) * 1000),
        "matrix_mb": shelf.bytes / 1e6,
    }


if __name__ == "__main__":
    numbers = [int(one) for one in sys.argv[1:]]
    print(describe())
    print(measure(*(numbers or [100_000, 1000])))

"""Time and memory of an in-memory search among 100,000 templates.

The vectors are random, which does not change the time of a matrix product.

    python -m benchmarks.faces.search [templates] [searches]
"""

import sys
import time

import numpy as np

from benchmarks.machine import describe
from contracts.faces.subjects import EMBEDDING_SIZE
from database.faces.search.gallery import Partition

_TEMPLATES_EACH = 5


def measure(templates: int, searches: int) -> dict[str, float]:
    """Milliseconds per search, in wall-clock and CPU time, and the size in MB.

    On a busy machine, only the CPU time is meaningful.
    """
    random = np.random.default_rng(8)
    partition = Partition()
    for number in range(templates // _TEMPLATES_EACH):
        drawn = random.normal(size=(_TEMPLATES_EACH, EMBEDDING_SIZE)).astype(np.float32)
        partition.put(f"sub_{number}", drawn / np.linalg.norm(drawn, axis=1, keepdims=True))
    seconds: list[float] = []
    cpu_seconds: list[float] = []
    for _ in range(searches):
        probe = random.normal(size=(1, EMBEDDING_SIZE)).astype(np.float32)
        probe /= np.linalg.norm(probe)
        began, cpu_began = time.perf_counter(), time.thread_time()
        partition.nearest(probe, min_similarity=0.3, limit=6)
        seconds.append(time.perf_counter() - began)
        cpu_seconds.append(time.thread_time() - cpu_began)
    return {
        "templates": len(partition.vectors),
        "p50_ms": float(np.percentile(seconds, 50) * 1000),
        "p99_ms": float(np.percentile(seconds, 99) * 1000),
        "p50_cpu_ms": float(np.percentile(cpu_seconds, 50) * 1000),
        "p99_cpu_ms": float(np.percentile(cpu_seconds, 99) * 1000),
        "matrix_mb": partition.bytes / 1e6,
    }


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[1:]]
    print(describe())
    print(measure(*(numbers or [100_000, 1000])))

"""Clients that send at a constant rate, and what they notice of a job beside them.

Latency counts from the time when a request was due, so that slow responses do not reduce the load.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx
import numpy as np


@dataclass
class Times:
    """Latencies by phase of the measurement."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    phase: str = "idle before"
    over: threading.Event = field(default_factory=threading.Event)

    def milliseconds(self, phase: str) -> np.ndarray:
        return np.array(self.seconds[phase]) * 1000


def requester(url: str, model: str, image: bytes, times: Times) -> Callable[[float], None]:
    """A function that classifies an image and keeps how late the answer came."""
    client = httpx.Client(base_url=url, timeout=60)

    def ask(due: float) -> None:
        phase = times.phase
        answer = client.post(
            f"/v1/classify?model={model}", content=image, headers={"Content-Type": "image/jpeg"}
        )
        answer.raise_for_status()
        times.seconds[phase].append(time.monotonic() - due)

    return ask


def paced(ask: Callable[[float], None], times: Times, rate: float, delay: float) -> None:
    """Call a function at a constant rate until the measurement is over."""
    ask(time.monotonic())
    times.seconds.clear()  # the first request opens the connection
    due = time.monotonic() + delay
    while not times.over.is_set():
        time.sleep(max(0.0, due - time.monotonic()))
        ask(due)
        due += 1 / rate


def report(times: Times, name: str) -> None:
    """Print p50 and p99 by phase, and their ratios to the idle ones.

    Args:
        times: What was measured.
        name: Of the phases that are not idle, together.
    """
    idle = np.concatenate([times.milliseconds("idle before"), times.milliseconds("idle after")])
    phases = [phase for phase in times.seconds if not phase.startswith("idle")]
    busy = np.concatenate([times.milliseconds(phase) for phase in phases])
    p50, p99 = np.percentile(idle, [50, 99])
    rows = {phase: times.milliseconds(phase) for phase in times.seconds}
    for phase, latencies in {**rows, "all idle": idle, f"all {name}": busy}.items():
        middle, high = np.percentile(latencies, [50, 99])
        print(
            f"{phase:14} {len(latencies):6} responses  p50 {middle:7.1f} ms ({middle / p50:4.2f}x)"
            f"  p99 {high:7.1f} ms ({high / p99:4.2f}x)"
        )

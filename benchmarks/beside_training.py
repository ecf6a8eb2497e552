"""Latency of requests while a training runs on the same machine, compared with an idle machine.

    opsin up &
    python -m benchmarks.beside_training IMAGE --dataset ds_… --url http://127.0.0.1:8000

Each client sends at a constant rate, and latency counts from the time when a request was due, so
that slow responses do not reduce the load. It is measured before the training, by phase while the
training runs, and again afterwards.
"""

import argparse
import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

FINISHED = {"succeeded", "failed", "cancelled"}
_POLL_SECONDS = 0.25


@dataclass
class Times:
    """Latencies by phase of the training."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    phase: str = "idle before"
    over: threading.Event = field(default_factory=threading.Event)

    def milliseconds(self, phase: str) -> np.ndarray:
        return np.array(self.seconds[phase]) * 1000


def main() -> None:
    """Print p50 and p99 by phase, and their ratio to the idle latencies."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("image", type=Path)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--model", default="squeezenet", help="the model whose latency is measured")
    parser.add_argument("--training", default="{}", help="more fields of the training, as JSON")
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument(
        "--rate", type=float, default=10.0, help="requests per second of each client"
    )
    parser.add_argument("--idle", type=float, default=30.0, help="seconds before and after")
    arguments = parser.parse_args()
    times = Times()
    body = {"dataset_id": arguments.dataset, "model": "beside-training", "network": "squeezenet"}
    body |= {"promote": "never"} | json.loads(arguments.training)
    image = arguments.image.read_bytes()
    for number in range(arguments.clients):
        ask = requester(arguments.url, arguments.model, image, times)
        delay = number / arguments.clients / arguments.rate
        threading.Thread(
            target=paced, args=(ask, times, arguments.rate, delay), daemon=True
        ).start()
    time.sleep(arguments.idle)
    ended = _train(arguments.url, body, times)
    times.phase = "idle after"
    time.sleep(arguments.idle)
    times.over.set()
    report(times)
    print(f"training {ended['state']} in {(ended['result'] or {}).get('seconds')}")


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


def _train(url: str, body: dict[str, Any], times: Times) -> dict[str, Any]:
    """Run a training and return its finished job."""
    with httpx.Client(base_url=url, timeout=60) as client:
        answer = client.post("/v1/trainings", json=body)
        answer.raise_for_status()
        job: dict[str, Any] = answer.json()
        while job["state"] not in FINISHED:
            times.phase = job["progress"]["phase"] or "start"
            time.sleep(_POLL_SECONDS)
            job = client.get(f"/v1/jobs/{job['id']}").json()
    return job


def report(times: Times, name: str = "training") -> None:
    """Print p50 and p99 by phase, and their ratios to the idle ones."""
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


if __name__ == "__main__":
    main()

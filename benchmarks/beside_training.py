"""How long served requests take while a training runs on the same machine, beside an idle one.

    opsin up &
    python -m benchmarks.beside_training PHOTO --dataset ds_… --url http://127.0.0.1:8000

A few clients, each at its own steady pace, so that a slow answer does not thin out the questions
that follow: a time is counted from when the question was due. First without a training, then from
the moment one is accepted until it ends, by what it was doing, then without once more.
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
_LOOK_SECONDS = 0.25


@dataclass
class Times:
    """Answers so far, by what the training was doing."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    phase: str = "idle before"
    over: threading.Event = field(default_factory=threading.Event)

    def told(self, phase: str) -> np.ndarray:
        """Milliseconds."""
        return np.array(self.seconds[phase]) * 1000


def main() -> None:
    """Print p50 and p99 by phase, and their ratio to the idle ones."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photo", type=Path)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--model", default="squeezenet", help="Whose answers are timed.")
    parser.add_argument("--training", default="{}", help="More fields of the training, JSON.")
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--rate", type=float, default=10.0, help="Questions a second, each.")
    parser.add_argument("--idle", type=float, default=30.0, help="Seconds before and after.")
    asked = parser.parse_args()
    times = Times()
    body = {"dataset_id": asked.dataset, "model": "beside-training", "network": "squeezenet"}
    body |= {"promote": "never"} | json.loads(asked.training)
    photo = asked.photo.read_bytes()
    for number in range(asked.clients):
        ask = _asker(asked.url, asked.model, photo, times)
        late = number / asked.clients / asked.rate
        threading.Thread(target=_paced, args=(ask, times, asked.rate, late), daemon=True).start()
    time.sleep(asked.idle)
    ended = _train(asked.url, body, times)
    times.phase = "idle after"
    time.sleep(asked.idle)
    times.over.set()
    _print(times, ended)


def _asker(url: str, model: str, photo: bytes, times: Times) -> Callable[[float], None]:
    client = httpx.Client(base_url=url, timeout=60)

    def ask(due: float) -> None:
        phase = times.phase
        answer = client.post(
            f"/v1/classify?model={model}", content=photo, headers={"Content-Type": "image/jpeg"}
        )
        answer.raise_for_status()
        times.seconds[phase].append(time.monotonic() - due)

    return ask


def _paced(ask: Callable[[float], None], times: Times, rate: float, late: float) -> None:
    ask(time.monotonic())
    times.seconds.clear()  # the first one opens the connection
    due = time.monotonic() + late
    while not times.over.is_set():
        time.sleep(max(0.0, due - time.monotonic()))
        ask(due)
        due += 1 / rate


def _train(url: str, body: dict[str, Any], times: Times) -> dict[str, Any]:
    """Start a training and follow it to its end; the job."""
    with httpx.Client(base_url=url, timeout=60) as client:
        answer = client.post("/v1/trainings", json=body)
        answer.raise_for_status()
        job: dict[str, Any] = answer.json()
        while job["state"] not in FINISHED:
            times.phase = job["progress"]["phase"] or "start"
            time.sleep(_LOOK_SECONDS)
            job = client.get(f"/v1/jobs/{job['id']}").json()
    return job


def _print(times: Times, job: dict[str, Any]) -> None:
    idle = np.concatenate([times.told("idle before"), times.told("idle after")])
    training = [name for name in times.seconds if not name.startswith("idle")]
    busy = np.concatenate([times.told(name) for name in training])
    p50, p99 = np.percentile(idle, [50, 99])
    rows = {name: times.told(name) for name in times.seconds}
    for name, told in {**rows, "all idle": idle, "all training": busy}.items():
        middle, high = np.percentile(told, [50, 99])
        print(
            f"{name:14} {len(told):6} answers  p50 {middle:7.1f} ms ({middle / p50:4.2f}x)"
            f"  p99 {high:7.1f} ms ({high / p99:4.2f}x)"
        )
    print(f"training {job['state']} in {(job['result'] or {}).get('seconds')}")


if __name__ == "__main__":
    main()

"""Latency of requests while a training runs on the same machine, compared with an idle machine.

    opsin up &
    python -m benchmarks.training.beside IMAGE --dataset ds_… --url http://127.0.0.1:8000

Each client sends at a constant rate, and latency counts from the time when a request was due, so
that slow responses do not reduce the load. It is measured before the training, by phase while the
training runs, and again afterwards.
"""

import argparse
import json
import threading
import time
from pathlib import Path
from typing import Any

import httpx

from benchmarks.paced_clients import Times, paced, report, requester
from contracts.jobs import FINISHED

_POLL_SECONDS = 0.25


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
    report(times, "training")
    print(f"training {ended['state']} in {(ended['result'] or {}).get('seconds')}")


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


if __name__ == "__main__":
    main()

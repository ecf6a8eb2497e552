"""Latency of requests while style transfers and dreams run, compared with an idle machine.

    OPSIN_PICTURE_CONCURRENCY=2 opsin up &
    python -m benchmarks.create.beside PHOTO STYLE --url http://127.0.0.1:8000

Two jobs run at a time, a style transfer and a dream, one after the other until the time is over.
The clients are those of `benchmarks.paced_clients`, as beside a training.
"""

import argparse
import threading
import time
from pathlib import Path
from typing import Any

import httpx

from benchmarks.paced_clients import Times, paced, report, requester
from contracts.jobs import FINISHED


def main() -> None:
    """Print p50 and p99, idle and beside two jobs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photo", type=Path)
    parser.add_argument("style", type=Path)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--model", default="squeezenet", help="the model whose latency is measured")
    parser.add_argument("--size", default="384", help="of both jobs")
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--rate", type=float, default=5.0, help="requests a second of each client")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each of the three parts")
    arguments = parser.parse_args()
    times, photo = Times(), arguments.photo.read_bytes()
    for number in range(arguments.clients):
        ask = requester(arguments.url, arguments.model, photo, times)
        delay = number / arguments.clients / arguments.rate
        threading.Thread(
            target=paced, args=(ask, times, arguments.rate, delay), daemon=True
        ).start()
    time.sleep(arguments.seconds)
    bodies = {
        "/v1/style_transfers": {"content": photo, "style": arguments.style.read_bytes()},
        "/v1/dreams": {"image": photo},
    }
    _beside(arguments, bodies, times)
    times.phase = "idle after"
    time.sleep(arguments.seconds)
    times.over.set()
    report(times, "beside jobs")


def _beside(
    arguments: argparse.Namespace, bodies: dict[str, dict[str, bytes]], times: Times
) -> None:
    """Keep one job of each kind running."""
    until = time.monotonic() + arguments.seconds
    with httpx.Client(base_url=arguments.url, timeout=60) as client:
        jobs = {path: _submit(client, path, arguments.size, body) for path, body in bodies.items()}
        while time.monotonic() < until:
            jobs = {path: client.get(f"/v1/jobs/{job['id']}").json() for path, job in jobs.items()}
            running = [job for job in jobs.values() if job["state"] == "running"]
            times.phase = f"{len(running)} running"
            for path, job in jobs.items():
                if job["state"] in FINISHED:
                    jobs[path] = _submit(client, path, arguments.size, bodies[path])
            time.sleep(0.25)
        for job in jobs.values():
            client.post(f"/v1/jobs/{job['id']}/cancel")


def _submit(client: httpx.Client, path: str, size: str, images: dict[str, bytes]) -> dict[str, Any]:
    answer = client.post(path, files=images, data={"size": size})
    answer.raise_for_status()
    job: dict[str, Any] = answer.json()
    return job


if __name__ == "__main__":
    main()

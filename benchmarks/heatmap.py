"""What a served Grad-CAM costs beside a served classification, of the same pictures in one run.

    OPSIN_HEATMAP_CACHE_MB=0 opsin up &
    python -m benchmarks.heatmap PHOTO --url http://127.0.0.1:8000 --model squeezenet

Closed loop: so many clients, each asking again as soon as it was answered. The kinds take turns,
so that whatever else the machine does meets all of them. The cache must be off, or nothing is
computed.
"""

import argparse
import statistics
import threading
import time
from pathlib import Path

import httpx

KINDS: dict[str, tuple[str, dict[str, str]]] = {
    "classify": ("/v1/classify", {}),
    "grad_cam as JSON": ("/v1/heatmap", {"Accept": "application/json"}),
    "grad_cam as PNG": ("/v1/heatmap", {"Accept": "image/png"}),
}


def main() -> None:
    """Print pictures a second, median latency and cost beside classification."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photo", type=Path)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--model", default="squeezenet")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    data = asked.photo.read_bytes()
    rates: dict[str, list[float]] = {kind: [] for kind in KINDS}
    taken: dict[str, list[float]] = {kind: [] for kind in KINDS}
    with httpx.Client(base_url=asked.url, timeout=60, params={"model": asked.model}) as client:
        for kind in KINDS:
            measure(client, kind, data, asked.clients, 1.0)
        for _ in range(asked.rounds):
            for kind in KINDS:
                times, seconds = measure(client, kind, data, asked.clients, asked.seconds)
                rates[kind].append(len(times) / seconds)
                taken[kind] += times
    base = statistics.median(rates["classify"])
    for kind in KINDS:
        rate = statistics.median(rates[kind])
        middle = statistics.median(taken[kind]) * 1000
        print(f"{kind:18} {rate:7.1f} /s  p50 {middle:7.1f} ms  cost {base / rate:.2f}x")


def measure(
    client: httpx.Client, kind: str, data: bytes, clients: int, seconds: float
) -> tuple[list[float], float]:
    """How long each answer took, and all of it."""
    path, headers = KINDS[kind]
    times: list[float] = []
    began = time.monotonic()

    def ask() -> None:
        while time.monotonic() < began + seconds:
            sent = time.monotonic()
            client.post(path, content=data, headers={"Content-Type": "image/png"} | headers)
            times.append(time.monotonic() - sent)

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return times, time.monotonic() - began


if __name__ == "__main__":
    main()

"""What counting costs: for each request, for each batch, and for each second.

    python -m benchmarks.observability.metrics [--request-ms 3.3] [--batch-ms 4.9]

Measures the calls that one classification makes, in a process of its own, and compares them with
the processor time that the rest of a request takes (see `docs/performance.md`).
"""

import argparse
import json
import time
from collections.abc import Callable

from contracts.metrics.exposition import Merged, exposition
from contracts.metrics.publishing import Snapshots
from contracts.metrics.registry import Metrics
from service.metrics.middleware import CountedRequest
from service.metrics.request_record import recording

QUEUE = ("squeezenet", "1", "classify")
REPEATS = 5


def microseconds(work: Callable[[], object], times: int) -> float:
    """The fastest of several rounds, for one call."""
    best = float("inf")
    for _ in range(REPEATS):
        began = time.process_time()
        for _ in range(times):
            work()
        best = min(best, time.process_time() - began)
    return best / times * 1e6


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description="What counting costs.")
    parser.add_argument("--request-ms", type=float, default=3.3, help="API, for one request")
    parser.add_argument("--batch-ms", type=float, default=4.9, help="worker, for one image")
    options = parser.parse_args()
    metrics = Metrics()

    def request() -> None:
        state = {"arrived": time.monotonic()}
        metrics.inc("http_requests_in_progress")
        one = CountedRequest(state, metrics)
        one.status = 200
        with recording(one.record):
            one.record.chosen("classify", "squeezenet", 1)
            one.record.decoded.append((0.002, ""))
            one.record.answered.append("")
        one.count()
        metrics.inc("http_requests_in_progress", by=-1)

    def batch() -> None:
        metrics.inc("computed_images_total", *QUEUE, "")
        metrics.inc("executions_total", *QUEUE)
        for name in ("batch_images", "compute_seconds", "queue_seconds", "reply_seconds"):
            metrics.observe(name, 0.01, *QUEUE)

    snapshots = Snapshots(metrics, "bench", "api", "here")

    def publish() -> None:
        snapshots.next_args()
        snapshots.accepted(-1)

    def scrape() -> None:
        merged = Merged()
        values = metrics.read()
        for process in ("a", "b", "c", "d"):
            merged.add(values | {"kind": "api", "host": "here", "process": process})
        exposition(merged.families(lambda *_: True), "")

    per_request, per_batch = microseconds(request, 20_000), microseconds(batch, 20_000)
    result = {
        "request_microseconds": round(per_request, 2),
        "request_share": round(per_request / (options.request_ms * 1000), 5),
        "batch_of_one_microseconds": round(per_batch, 2),
        "batch_of_one_share": round(per_batch / (options.batch_ms * 1000), 5),
        "snapshot_each_second_microseconds": round(per_second := microseconds(publish, 200), 1),
        "snapshot_share_of_a_core": round(per_second / 1e6, 5),
        "scrape_of_four_processes_microseconds": round(microseconds(scrape, 50), 1),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()

"""What tracing costs: the calls of a request that is not traced, and of one that is.

    python -m benchmarks.observability.tracing [--request-ms 8.8]

Measures the calls of one classification in the API and in a worker, in a process of its own, with
encoding and sending, and compares them with the processor time of a whole request (see
`docs/performance.md`). `benchmarks.observability.installation` measures whole
installations instead.
"""

import argparse
import json
import time
from collections.abc import Callable

import numpy as np

from contracts.queue.messages import Item
from contracts.queue.redis_keys import QueueName
from contracts.settings import Settings
from contracts.tracing.attributes import attributes_of
from contracts.tracing.origin import Origin, set_origin
from contracts.tracing.spans import (
    begin_request,
    current_span,
    span,
    start_tracing,
    stop_tracing,
    within,
)
from tests.collector import collecting
from workers.inference.batch_trace import batch_trace

QUEUE = QueueName("squeezenet", 1, "classify")
PIXELS = np.zeros((2, 2, 3), np.uint8)
REQUEST_ID = "a" * 32
ROUNDS = 5


def microseconds(work: Callable[[], object], times: int) -> float:
    """The fastest of several rounds, for one call; with the threads of this process."""
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(times):
            work()
        best = min(best, time.process_time() - began)
    return best / times * 1e6


def through_the_queue() -> None:
    """The image's way to the worker, with its origin, and the batch."""
    part = current_span()
    item = Item(
        bytes(16),
        *(0, 0, "replies", PIXELS),
        origin=Origin(REQUEST_ID, None if part is None else part.context),
    )
    item = Item.unpack(item.pack())
    trace = batch_trace(QUEUE, [item], (1, 2))
    if trace is not None:
        trace.ran([item], [0.01], time.time_ns(), "")
        trace.replied(time.time_ns())
        trace.end()


def request() -> None:
    """The calls of one classification."""
    part = begin_request("POST", None, is_probe=False)
    set_origin(Origin(REQUEST_ID))
    if part is None:
        parts_of_a_request()
        return
    part.set(
        http__request__method="POST",
        url__path="/v1/classify",
        url__scheme="http",
        network__protocol__version="1.1",
        opsin__request_id=REQUEST_ID,
        server__address="127.0.0.1",
        server__port=8000,
    )
    with within(part):
        parts_of_a_request()
        part.name("POST /v1/classify")
        part.set(http__route="/v1/classify", http__response__status_code=200)
        part.set(opsin__operation="classify", opsin__model="squeezenet", opsin__version=1)


def parts_of_a_request() -> None:
    """Decoding and inference."""
    with span("decode", opsin__images=1):
        pass
    with span("infer", **attributes_of(QUEUE, 1)):
        through_the_queue()


def plain() -> None:
    """What packs and unpacks an image without an origin."""
    Item.unpack(Item(bytes(16), 0, 0, "replies", PIXELS).pack())


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description="What tracing costs.")
    parser.add_argument("--request-ms", type=float, default=8.8, help="of all processes")
    options = parser.parse_args()
    off = microseconds(request, 5000) - microseconds(plain, 5000)
    with collecting() as collector:
        collector.receive = lambda _: None  # type: ignore[method-assign, assignment]
        settings = Settings(_env_file=None, otlp_endpoint=collector.url, trace_ratio=1.0)
        start_tracing(settings, "api")
        traced = microseconds(request, 500)
        stop_tracing()
    whole = options.request_ms * 1000
    result = {
        "off_microseconds": round(off, 1),
        "off_share": round(off / whole, 5),
        "traced_microseconds": round(traced, 1),
        "ten_percent_traced_share": round((0.1 * traced + 0.9 * off) / whole, 5),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()

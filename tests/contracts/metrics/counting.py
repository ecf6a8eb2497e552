"""A process for `test_scraping`: counts until it is stopped, and notes how much in a file."""

import signal
import sys
import time
from pathlib import Path

import redis

from contracts.metrics.publisher import MetricsPublisher
from contracts.metrics.registry import Metrics


def main(url: str, name: str, file: Path) -> None:
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    metrics, client = Metrics(), redis.Redis.from_url(url)
    publisher = MetricsPublisher(client, metrics, name, "worker")
    publisher.start()
    count, new = 0, file.with_suffix(".new")
    while not stopped:
        count += 1
        new.write_text(str(count))
        new.replace(file)  # it may be killed at any time, and read
        metrics.inc("executions_total", "m", "1", "classify")
        metrics.observe("compute_seconds", 0.25, "m", "1", "classify")
        metrics.set("process_threads", 1)
        time.sleep(0.005)
    publisher.stop()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))

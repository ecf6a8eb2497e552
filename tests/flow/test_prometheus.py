"""What a real Prometheus knows of a service under load whose workers are replaced and killed."""

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.flow.conftest import Networks
from tests.flow.installation import Installation
from tests.flow.prometheus import Prometheus, dashboard_queries, scraping
from tests.flow.trainings import start_process, training_installation
from tests.images import encoded, scene

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

ROUNDS = 2
SETTLING_SECONDS = 60.0  # of a process that is gone: 4 s, and a scrape; more on a busy machine
# Images of a killed worker are sent to another one once its heartbeat has expired.
HEADERS = {"X-Timeout-Ms": "300000"}


class Load:
    """Clients that send again and again, and count what they are answered."""

    def __init__(self, url: str) -> None:
        self.statuses: Counter[tuple[str, int]] = Counter()
        self._url = url
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(4)
        self._running = [self._pool.submit(self._send, number) for number in range(4)]

    def _send(self, number: int) -> None:
        good, bad = encoded(scene(), "PNG"), b"no image"
        bodies = [("classify", good)] * 8 + [("classify", bad), ("embed", good), ("heatmap", good)]
        # A client for each thread; a new connection may go to the other API process.
        while not self._stop.is_set():
            with httpx.Client(base_url=self._url, timeout=330, headers=HEADERS) as client:
                for operation, body in bodies:
                    answer = client.post(f"/v1/{operation}?model=squeezenet", content=body)
                    with self._lock:
                        self.statuses[operation, answer.status_code] += 1

    def stop(self) -> Counter[tuple[str, int]]:
        self._stop.set()
        for one in self._running:
            one.result()
        self._pool.shutdown()
        return self.statuses


@pytest.fixture
def running(fetched_home: Path, networks: Networks, tmp_path: Path) -> Iterator[Installation]:
    env = {"OPSIN_API_PROCESSES": "2"}
    running = training_installation(
        tmp_path / "home", fetched_home / "weights", networks("squeezenet"), env
    )
    try:
        start_process(running, "api")
        start_process(running, "jobs")
        for name in ("worker0", "worker1"):
            running.run(name, "worker --unkept")
        running.wait_until(lambda: len(running.worker_ids()) == 2, 240)
        yield running
    finally:
        running.close()


def change_workers(running: Installation) -> set[str]:
    """Kill one worker and replace the other; the ids of both."""
    before = running.worker_ids()
    running.kill("worker0")
    running.run("worker0", "worker --unkept")
    running.wait_until(lambda: len(running.worker_ids() - before) == 1, 240)
    running.run("worker-new", "worker --unkept")
    running.wait_until(lambda: len(running.worker_ids() - before) == 2, 240)
    running.kill("worker1", signal.SIGTERM)
    running.processes["worker1"] = running.processes.pop("worker-new")
    return before


def test_counters_never_fall_and_sums_are_those_of_the_clients(
    running: Installation, tmp_path: Path
) -> None:
    target = running.url.removeprefix("http://")
    with scraping(target, tmp_path / "prometheus") as prometheus:
        load, gone = Load(running.url), set[str]()
        for _ in range(ROUNDS):
            gone |= change_workers(running)
            time.sleep(3)
        statuses = load.stop()
        empty = [one for one in dashboard_queries() if not prometheus.query(one[1])]
        assert empty == []
        assert len(gone) == 2 * ROUNDS
        assert sum(statuses.values()) > 100, statuses
        assert set(statuses) == {
            *(("classify", 200), ("classify", 422), ("embed", 200), ("heatmap", 200))
        }
        settled(lambda: assert_sums(prometheus, statuses))
        settled(lambda: assert_gone(prometheus, running, gone))
        assert_no_fall(prometheus)
        assert prometheus.value('sum_over_time(up{job="opsin"}[1h])') > 20


def settled(check: Callable[[], None]) -> None:
    """Check again and again what a scrape shows a little later, until it holds."""
    deadline = time.monotonic() + SETTLING_SECONDS
    while True:
        try:
            check()
        except AssertionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)
        else:
            return


def assert_sums(prometheus: Prometheus, statuses: Counter[tuple[str, int]]) -> None:
    """To the request: requests are counted by the API, whichever worker dies."""
    for (operation, status), number in statuses.items():
        labels = f'operation="{operation}",status="{status}"'
        assert prometheus.value(f"sum(opsin_http_requests_total{{{labels}}})") == number
    every = sum(statuses.values())
    assert prometheus.value("sum(opsin_requests_total)") == every
    assert prometheus.value("sum(opsin_request_seconds_count)") == every
    bad = statuses["classify", 422]
    assert prometheus.value('sum(opsin_images_total{reason="invalid_image"})') == bad
    assert prometheus.value('sum(opsin_images_total{reason=""})') == every - bad
    # What a killed worker had counted since its last snapshot is lost: a second for each.
    hits = prometheus.value('opsin_heatmap_cache_requests_total{reason="hit"}')
    computed = prometheus.value("sum(opsin_computed_images_total)")
    sent = every - bad - hits
    repeated = prometheus.value("opsin_requeued_images_total")
    assert 0.5 * sent < computed <= sent + repeated


def assert_no_fall(prometheus: Prometheus) -> None:
    kept = [
        name
        for name in prometheus.names()
        if name.endswith(("_total", "_sum", "_count", "_bucket")) and "_process_" not in name
    ]
    assert len(kept) > 30
    for name in kept:
        assert prometheus.query(f"resets({name}[1h]) > 0") == {}, name


def assert_gone(prometheus: Prometheus, running: Installation, gone: set[str]) -> None:
    """Only processes that live have series of their own."""
    shown = prometheus.query("opsin_process_resident_memory_bytes")
    ids = {dict(labels)["id"] for labels in shown}
    assert ids & gone == set()
    assert running.worker_ids() < ids
    assert len(ids) == 5, "two API processes, two workers, a job worker"
    beats = prometheus.query("opsin_worker_heartbeat_timestamp_seconds")
    assert {dict(labels)["worker"] for labels in beats} & gone == set()

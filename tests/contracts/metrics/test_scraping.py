"""What a real Prometheus knows of processes that are stopped, killed and replaced meanwhile."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from contracts.metrics.exposition import Merged
from contracts.metrics.publishing import FOLD, FOLD_ARGS, FOLD_KEYS, parse_fold
from tests.flow.installation import ROOT
from tests.flow.prometheus import Prometheus, exposing, scraping
from tests.valkey import RealValkey

TOTAL = "sum(opsin_executions_total)"
THREADS = "opsin_process_threads"


@contextmanager
def answering(url: str) -> Iterator[str]:
    """`/metrics` of everything that is in Redis; yields its host and port."""
    client = redis.Redis.from_url(url)
    fold = client.register_script(FOLD)

    def read() -> Merged:
        snapshots, retained = parse_fold(fold(keys=FOLD_KEYS, args=FOLD_ARGS))
        merged = Merged()
        merged.add_values(retained)
        for snapshot in snapshots:
            merged.add(snapshot)
        return merged

    with exposing(read) as target:
        yield target
    client.close()


class Processes:
    """The counting processes, by name."""

    def __init__(self, url: str, folder: Path) -> None:
        self._url = url
        self._folder = folder
        self.alive: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        command = ["-m", "tests.contracts.metrics.counting", self._url, name]
        self.alive[name] = subprocess.Popen(
            [sys.executable, *command, str(self._folder / name)], cwd=ROOT
        )

    def end(self, name: str, number: signal.Signals) -> None:
        process = self.alive.pop(name)
        process.send_signal(number)
        process.wait(60)

    def counted(self, name: str) -> int:
        return int((self._folder / name).read_text())


@pytest.fixture
def processes(valkey: RealValkey, tmp_path: Path) -> Iterator[Processes]:
    folder = tmp_path / "counts"
    folder.mkdir()
    processes = Processes(valkey.url, folder)
    yield processes
    for process in processes.alive.values():
        process.kill()
        process.wait(60)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def shown(prometheus: Prometheus) -> set[str]:
    """The processes that have series of their own."""
    return {dict(labels)["id"] for labels in prometheus.query(THREADS)}


def test_counters_never_fall_and_series_of_the_dead_end(
    valkey: RealValkey, processes: Processes, tmp_path: Path
) -> None:
    with (
        answering(valkey.url) as target,
        scraping(target, tmp_path / "prometheus") as prometheus,
    ):
        for name in ("stopped", "killed", "stays"):
            processes.start(name)
        until(lambda: shown(prometheus) == {"stopped", "killed", "stays"})
        processes.end("killed", signal.SIGKILL)
        processes.start("replaces")
        processes.end("stopped", signal.SIGTERM)
        until(lambda: shown(prometheus) == {"stays", "replaces"})
        for name in ("stays", "replaces"):
            processes.end(name, signal.SIGTERM)
        until(lambda: shown(prometheus) == set())
        exact = sum(processes.counted(name) for name in ("stopped", "stays", "replaces"))
        killed, total = processes.counted("killed"), prometheus.value(TOTAL)
        assert exact < total <= exact + killed, "only a killed one loses what it had not published"
        assert prometheus.value("sum(opsin_compute_seconds_count)") == total
        assert prometheus.value("sum(opsin_compute_seconds_sum)") == 0.25 * total
        for name in ("executions_total", "compute_seconds_count", "compute_seconds_bucket"):
            assert prometheus.query(f"resets(opsin_{name}[10m]) > 0") == {}

"""A small, real worker that sends heartbeats to a real Valkey and grows on a signal."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cli.output import CommandError
from cli.processes.process import Program
from cli.processes.worker_supervisor import HeartbeatReader, MemoryLimit, WorkerSupervisor
from contracts.queue import redis_keys
from contracts.queue.heartbeat import WorkerBeat
from tests.cli.running import ROOT, until
from tests.valkey import RealValkey

WORKER = """
import os, signal, socket, sys, time
import redis
from contracts.queue import redis_keys
from contracts.queue.heartbeat import HeldModel, WorkerBeat

ballast = []
signal.signal(signal.SIGUSR1, lambda *_: ballast.append(b"x" * 300_000_000))
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
client = redis.Redis.from_url(sys.argv[1])
held = HeldModel(name="m", version=1, state="ready", operations=("embed",))
while True:
    beat = WorkerBeat(id=str(os.getpid()), host=socket.gethostname(), pid=os.getpid(),
                      release="0", started_at=0, beat_at=0, models=(held,))
    client.sadd(redis_keys.WORKERS, beat.id)
    client.set(redis_keys.heartbeat_key(beat.id), beat.model_dump_json(), px=6000)
    time.sleep(0.1)
"""


class StopEvent:
    """Replaces the signals: the test requests the stop."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def wait(self, seconds: float) -> bool:
        return self.event.wait(min(seconds, 0.1))

    def stop_at_once(self) -> bool:
        return False


class Supervised:
    """A supervisor in a thread of the test."""

    def __init__(self, valkey: RealValkey, folder: Path, code: str, megabytes: int) -> None:
        self.reports: list[str] = []
        self.signals = StopEvent()
        self.fault: CommandError | None = None
        self.client = valkey.client()
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        command = (sys.executable, "-c", code, valkey.url)
        self.supervisor = WorkerSupervisor(
            Program("worker", command, env, folder / "worker.log"),
            HeartbeatReader(self.client),
            MemoryLimit(megabytes),
            self.signals,  # type: ignore[arg-type]
            self.reports.append,
            shutdown_seconds=5,
            outgrown_seconds=0.5,
        )

        def run() -> None:
            try:
                self.supervisor.run()
            except CommandError as fault:
                self.fault = fault

        self.thread = threading.Thread(target=run)
        self.thread.start()

    def pids(self) -> set[int]:
        beats = self.client.mget(
            [redis_keys.heartbeat_key(worker.decode()) for worker in self.members()]
        )
        return {WorkerBeat.model_validate_json(raw).pid for raw in beats if raw}

    def members(self) -> list[bytes]:
        return list(self.client.smembers(redis_keys.WORKERS)) or [b"-"]

    def stop(self) -> None:
        self.signals.event.set()
        self.thread.join(60)
        assert not self.thread.is_alive()


@pytest.fixture
def supervised(valkey: RealValkey, tmp_path: Path) -> Iterator[Supervised]:
    supervised = Supervised(valkey, tmp_path, WORKER, megabytes=200)
    until(lambda: supervised.supervisor.started)
    yield supervised
    supervised.stop()


def test_a_worker_over_its_limit_is_replaced_without_a_gap(supervised: Supervised) -> None:
    (first,) = supervised.pids()
    os.kill(first, signal.SIGUSR1)
    gaps = 0

    def replaced() -> bool:
        nonlocal gaps
        pids = supervised.pids()
        gaps += not any(psutil.pid_exists(pid) for pid in pids)
        return not psutil.pid_exists(first)

    until(replaced)
    assert gaps == 0
    assert "a fresh one takes over" in supervised.reports[0]
    until(lambda: len(supervised.pids()) == 1)
    assert supervised.pids() != {first}


def test_a_crashed_worker_is_restarted(supervised: Supervised) -> None:
    (first,) = supervised.pids()
    os.kill(first, signal.SIGKILL)
    until(lambda: supervised.pids() - {first})
    assert "worker ended (signal 9)" in supervised.reports[0]


def test_no_worker_is_left_after_a_stop(valkey: RealValkey, tmp_path: Path) -> None:
    supervised = Supervised(valkey, tmp_path, WORKER, megabytes=0)
    until(supervised.pids)
    (pid,) = supervised.pids()
    supervised.stop()
    assert not psutil.pid_exists(pid)


def test_a_failed_start_is_not_repeated(valkey: RealValkey, tmp_path: Path) -> None:
    supervised = Supervised(
        valkey, tmp_path, "import sys; sys.exit('no TensorFlow here')", megabytes=0
    )
    supervised.thread.join(60)
    assert supervised.fault is not None
    assert "no TensorFlow here" in supervised.fault.message


def test_a_fresh_worker_may_always_grow_by_a_quarter() -> None:
    assert MemoryLimit(100).for_worker(fresh=800) == 1000
    assert MemoryLimit(4000).for_worker(fresh=800) == 4000
    assert MemoryLimit(0).for_worker(fresh=800) == 2600

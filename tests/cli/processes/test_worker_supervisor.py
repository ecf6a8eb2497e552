"""A small, real worker that beats into a real Valkey and grows when it is told to."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis

from cli.output import CommandError
from cli.processes.process import Program
from cli.processes.worker_supervisor import Beats, Bound, Keeper
from contracts.queue import redis_keys
from contracts.queue.heartbeat import WorkerBeat
from tests.cli.running import ROOT, until
from tests.valkey import RealValkey

WORKER = """
import os, signal, socket, sys, time
import redis
from contracts import names
from contracts.queue.heartbeat import HeldModel, WorkerBeat

ballast = []
signal.signal(signal.SIGUSR1, lambda *_: ballast.append(b"x" * 300_000_000))
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
client = redis.Redis.from_url(sys.argv[1])
held = HeldModel(name="m", version=1, state="ready", operations=("embed",))
while True:
    beat = WorkerBeat(id=str(os.getpid()), host=socket.gethostname(), pid=os.getpid(),
                      release="0", started_at=0, beat_at=0, models=(held,))
    client.sadd(names.WORKERS, beat.id)
    client.set(names.worker_beat(beat.id), beat.model_dump_json(), px=2000)
    time.sleep(0.1)
"""


class Asked:
    """In place of signals: the test says when to stop."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def wait(self, seconds: float) -> bool:
        return self.event.wait(min(seconds, 0.1))

    def hurried(self) -> bool:
        return False


class Kept:
    """A keeper in a thread of the test."""

    def __init__(self, valkey: RealValkey, folder: Path, code: str, megabytes: int) -> None:
        self.said: list[str] = []
        self.asked = Asked()
        self.fault: CommandError | None = None
        self.client = redis.Redis.from_url(valkey.url)
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        command = (sys.executable, "-c", code, valkey.url)
        self.keeper = Keeper(
            Program("worker", command, env, folder / "worker.log"),
            Beats(self.client),
            Bound(megabytes),
            self.asked,  # type: ignore[arg-type]
            self.said.append,
            shutdown_seconds=5,
            outgrown_seconds=0.5,
        )

        def run() -> None:
            try:
                self.keeper.run()
            except CommandError as fault:
                self.fault = fault

        self.thread = threading.Thread(target=run)
        self.thread.start()

    def pids(self) -> set[int]:
        beats = self.client.mget([redis_keys.worker_beat(one.decode()) for one in self.members()])
        return {WorkerBeat.model_validate_json(raw).pid for raw in beats if raw}

    def members(self) -> list[bytes]:
        return list(self.client.smembers(redis_keys.WORKERS)) or [b"-"]

    def stop(self) -> None:
        self.asked.event.set()
        self.thread.join(10)
        assert not self.thread.is_alive()


@pytest.fixture
def kept(valkey: RealValkey, tmp_path: Path) -> Iterator[Kept]:
    kept = Kept(valkey, tmp_path, WORKER, megabytes=200)
    until(lambda: kept.keeper.started)
    yield kept
    kept.stop()


def test_a_worker_that_outgrows_is_replaced_without_a_gap(kept: Kept) -> None:
    (first,) = kept.pids()
    os.kill(first, signal.SIGUSR1)
    gaps = 0

    def replaced() -> bool:
        nonlocal gaps
        pids = kept.pids()
        gaps += not any(psutil.pid_exists(pid) for pid in pids)
        return not psutil.pid_exists(first)

    until(replaced)
    assert gaps == 0
    assert "a fresh one takes over" in kept.said[0]
    until(lambda: len(kept.pids()) == 1)
    assert kept.pids() != {first}


def test_a_crash_is_followed_by_another_worker(kept: Kept) -> None:
    (first,) = kept.pids()
    os.kill(first, signal.SIGKILL)
    until(lambda: kept.pids() - {first})
    assert "worker ended (signal 9)" in kept.said[0]


def test_none_is_left_when_it_stops(valkey: RealValkey, tmp_path: Path) -> None:
    kept = Kept(valkey, tmp_path, WORKER, megabytes=0)
    until(kept.pids)
    (pid,) = kept.pids()
    kept.stop()
    assert not psutil.pid_exists(pid)


def test_a_start_that_fails_is_not_repeated(valkey: RealValkey, tmp_path: Path) -> None:
    kept = Kept(valkey, tmp_path, "import sys; sys.exit('no TensorFlow here')", megabytes=0)
    kept.thread.join(10)
    assert kept.fault is not None
    assert "no TensorFlow here" in kept.fault.message


def test_a_bound_below_a_fresh_worker_leaves_it_room() -> None:
    assert Bound(100).limit(fresh=800) == 1000
    assert Bound(4000).limit(fresh=800) == 4000
    assert Bound(0).limit(fresh=800) == 2600

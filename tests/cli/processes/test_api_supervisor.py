"""Several API processes behind one port, played by small, real servers under real load."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from tests.cli.running import ROOT, Run, until
from tests.ports import free_port

# Two processes of the real serve, with the stand-in parts of the service's own tests.
SUPERVISOR = """
import functools, os, socket, sys
from cli.processes.api_supervisor import ApiSupervisor
from cli.processes.process import Program
from cli.processes.signals import StopSignals

port = int(sys.argv[1])
def program(number, listener, pipe):
    command = (sys.executable, sys.argv[2], str(listener), str(pipe), str(number))
    return Program(f"api-{number}", command, dict(os.environ), None, files=(listener, pipe))

with StopSignals() as signals, socket.create_server(("127.0.0.1", port), backlog=128) as listener:
    report = functools.partial(print, flush=True)
    ApiSupervisor(listener, program, 2, signals, report, shutdown_seconds=3).run()
print("supervisor ended", flush=True)
"""
# The second one waits as long as the file `hold` exists.
SERVER = """
import os, pathlib, socket, sys, time
while sys.argv[3] == "1" and pathlib.Path(__file__).with_name("hold").exists():
    time.sleep(0.05)
from contracts.settings import Settings
from service.server import serve
from tests.service.parts import FakeServices
listener, pipe = map(int, sys.argv[1:3])
settings = Settings(_env_file=None, shutdown_seconds=3)
listener = socket.socket(fileno=listener)
serve(settings, FakeServices().open_services, listener=listener, ready=lambda: os.write(pipe, b"1"))
"""


@pytest.fixture
def port() -> int:
    return free_port()


@contextmanager
def supervising(folder: Path, port: int) -> Iterator[Run]:
    """A supervisor of two processes, of which one takes requests."""
    server = folder / "server.py"
    server.write_text(SERVER)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    run = Run(folder / "supervisor.log", environment, "-c", SUPERVISOR, str(port), str(server))
    try:
        until(lambda: is_up(port) and len(run.descendants()) == 2, 120)
        yield run
    finally:
        if run.process.poll() is None:
            run.process.send_signal(signal.SIGTERM)
            run.wait()


@pytest.fixture
def supervisor(tmp_path: Path, port: int) -> Iterator[Run]:
    with supervising(tmp_path, port) as run:
        yield run


def is_up(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
    except httpx.TransportError:
        return False


class Crowd:
    """Clients that keep their connections, send requests without a pause, and never retry."""

    def __init__(self, port: int, count: int = 4) -> None:
        self.answered = 0
        self.faults: list[str] = []
        self._over = threading.Event()
        self._url = f"http://127.0.0.1:{port}/healthz"
        self._threads = [threading.Thread(target=self._send_requests) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _send_requests(self) -> None:
        with httpx.Client(timeout=60) as client:
            while not self._over.is_set():
                try:
                    answer = client.post(self._url)  # a POST: no client may send it again by itself
                except httpx.TransportError as fault:
                    self.faults.append(repr(fault))
                else:
                    self.answered += answer.status_code == 405
                time.sleep(0.02)

    def end(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(60)


def test_all_processes_are_replaced_without_an_error(supervisor: Run, port: int) -> None:
    before = {process.pid for process in supervisor.descendants()}
    crowd = Crowd(port)
    try:
        supervisor.process.send_signal(signal.SIGUSR2)
        supervisor.wait_for("All 2 API processes were replaced.")
    finally:
        crowd.end()
    assert crowd.faults == []
    assert crowd.answered > 20
    after = {process.pid for process in supervisor.descendants()}
    assert len(after) == 2
    assert not before & after


@pytest.mark.slow
def test_a_killed_process_is_restarted_while_the_other_serves(supervisor: Run, port: int) -> None:
    victim = supervisor.descendants()[0]
    victim.kill()
    until(lambda: is_up(port), 60)  # the other one may still be loading
    until(lambda: len({p.pid for p in supervisor.descendants()} - {victim.pid}) == 2, 120)
    assert "restarting it" in supervisor.text


def test_a_process_killed_while_it_loads_does_not_end_the_other(tmp_path: Path, port: int) -> None:
    hold = tmp_path / "hold"
    hold.touch()
    with supervising(tmp_path, port) as supervisor:
        loading = next(one for one in supervisor.descendants() if one.cmdline()[-1] == "1")
        loading.kill()
        supervisor.wait_for("api-1 ended (signal 9); restarting it")
        assert is_up(port)
        hold.unlink()
        until(lambda: len({one.pid for one in supervisor.descendants()} - {loading.pid}) == 2, 120)
        assert is_up(port)


def test_a_stop_leaves_no_process_and_frees_the_port(supervisor: Run, port: int) -> None:
    processes = supervisor.descendants()
    supervisor.process.send_signal(signal.SIGTERM)
    assert supervisor.wait() == 0
    assert not any(psutil.pid_exists(process.pid) for process in processes)
    with socket.create_server(("127.0.0.1", port)):
        pass


def test_a_process_that_cannot_start_ends_the_supervisor(tmp_path: Path, port: int) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("import sys; sys.exit('no FastAPI here')")
    done = subprocess.run(
        [sys.executable, "-c", SUPERVISOR, str(port), str(broken)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode != 0
    assert "could not start" in done.stderr

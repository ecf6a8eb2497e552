"""Several API processes behind one port: small, real servers in their place, under real load."""

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

from tests.cli.running import ROOT, Run, free_port, until

# Two processes of the real serve, with the stand-in parts of the service's own tests.
KEEPER = """
import functools, os, socket, sys
from cli.processes.api_supervisor import ApiKeeper
from cli.processes.process import Program
from cli.processes.signals import StopSignals

port = int(sys.argv[1])
def program(number, listener, tell):
    command = (sys.executable, sys.argv[2], str(listener), str(tell), str(number))
    return Program(f"api-{number}", command, dict(os.environ), None, files=(listener, tell))

with StopSignals() as signals, socket.create_server(("127.0.0.1", port), backlog=128) as listener:
    say = functools.partial(print, flush=True)
    ApiKeeper(listener, program, 2, signals, say, shutdown_seconds=3).run()
print("keeper ended", flush=True)
"""
# The second of them waits for as long as somebody holds it up.
SERVER = """
import os, pathlib, socket, sys, time
while sys.argv[3] == "1" and pathlib.Path(__file__).with_name("hold").exists():
    time.sleep(0.05)
from contracts.settings import Settings
from service.server import serve
from tests.service.parts import House
listener, tell = map(int, sys.argv[1:3])
settings = Settings(_env_file=None, shutdown_seconds=3)
listener = socket.socket(fileno=listener)
serve(settings, House().opening, listener=listener, ready=lambda: os.write(tell, b"1"))
"""


@pytest.fixture
def port() -> int:
    return free_port()


@contextmanager
def keeping(folder: Path, port: int) -> Iterator[Run]:
    """A keeper of two, of which one takes requests."""
    server = folder / "server.py"
    server.write_text(SERVER)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    run = Run(folder / "keeper.log", environment, "-c", KEEPER, str(port), str(server))
    try:
        until(lambda: is_up(port) and len(run.descendants()) == 2, 60)
        yield run
    finally:
        if run.process.poll() is None:
            run.process.send_signal(signal.SIGTERM)
            run.wait()


@pytest.fixture
def kept(tmp_path: Path, port: int) -> Iterator[Run]:
    with keeping(tmp_path, port) as run:
        yield run


def is_up(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
    except httpx.TransportError:
        return False


class Crowd:
    """Clients that keep their connections, ask without a pause, and never ask twice."""

    def __init__(self, port: int, count: int = 4) -> None:
        self.answered = 0
        self.faults: list[str] = []
        self._over = threading.Event()
        self._url = f"http://127.0.0.1:{port}/healthz"
        self._threads = [threading.Thread(target=self._ask_on) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _ask_on(self) -> None:
        with httpx.Client(timeout=10) as client:
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
            thread.join(20)


def test_all_are_replaced_and_nobody_notices(kept: Run, port: int) -> None:
    before = {process.pid for process in kept.descendants()}
    crowd = Crowd(port)
    try:
        kept.process.send_signal(signal.SIGUSR2)
        kept.wait_for("All 2 API processes were replaced.")
    finally:
        crowd.end()
    assert crowd.faults == []
    assert crowd.answered > 20
    after = {process.pid for process in kept.descendants()}
    assert len(after) == 2
    assert not before & after


@pytest.mark.slow
def test_a_killed_one_is_followed_and_the_other_serves_meanwhile(kept: Run, port: int) -> None:
    victim = kept.descendants()[0]
    victim.kill()
    until(lambda: is_up(port), 60)  # the other one may still be loading
    until(lambda: len({p.pid for p in kept.descendants()} - {victim.pid}) == 2, 60)
    assert "restarting it" in kept.text


def test_one_that_is_killed_while_it_loads_does_not_take_the_other_with_it(
    tmp_path: Path, port: int
) -> None:
    hold = tmp_path / "hold"
    hold.touch()
    with keeping(tmp_path, port) as kept:
        loading = next(one for one in kept.descendants() if one.cmdline()[-1] == "1")
        loading.kill()
        kept.wait_for("api-1 ended (signal 9); restarting it")
        assert is_up(port)
        hold.unlink()
        until(lambda: len({one.pid for one in kept.descendants()} - {loading.pid}) == 2, 60)
        assert is_up(port)


def test_told_to_stop_none_is_left_and_the_port_is_free(kept: Run, port: int) -> None:
    processes = kept.descendants()
    kept.process.send_signal(signal.SIGTERM)
    assert kept.wait() == 0
    assert not any(psutil.pid_exists(process.pid) for process in processes)
    with socket.create_server(("127.0.0.1", port)):
        pass


def test_one_that_cannot_start_ends_the_keeper(tmp_path: Path, port: int) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("import sys; sys.exit('no FastAPI here')")
    done = subprocess.run(
        [sys.executable, "-c", KEEPER, str(port), str(broken)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert "could not start" in done.stderr

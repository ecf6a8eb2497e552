"""What can go wrong around a running service: the table of faults.

Each is struck at one part of a `House` and, where it does not pass by itself, lifted again. What
the service does about it is its own business; nothing here helps it.
"""

import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import redis

from tests.reliability.house import House

HOLD_SECONDS = 8.0
FROZEN_SECONDS = 10.0
_CHILD_SECONDS = 60.0
_HALF_OPEN = 200
_MIB = 1024 * 1024

Strike = Callable[[House], AbstractContextManager[None]]


@dataclass(frozen=True, slots=True)
class Fault:
    """One row of the matrix.

    Attributes:
        name: What the table calls it.
        strike: Does it when it is entered, and lifts it at its end; a kill has nothing to lift.
        hold: Seconds it lasts.
        needs: What a machine must allow for it: ``mounts``, ``cc``, or nothing.
        codes: What requests may be answered with until all is well again.
    """

    name: str
    strike: Strike
    hold: float = 0.0
    needs: str = ""
    codes: frozenset[str] = frozenset()


def kill(role: str) -> Strike:
    """SIGKILL to that part, as soon as it runs."""

    @contextmanager
    def strike(house: House) -> Iterator[None]:
        house.one(role, _CHILD_SECONDS).kill()
        yield

    return strike


def freeze(role: str) -> Strike:
    """SIGSTOP, and SIGCONT at the end."""

    @contextmanager
    def strike(house: House) -> Iterator[None]:
        process = house.one(role)
        process.suspend()
        try:
            yield
        finally:
            process.resume()

    return strike


@contextmanager
def flush(house: House) -> Iterator[None]:
    """All that Valkey holds is gone; itself it runs on."""
    with redis.Redis.from_url(house.redis_url) as client:
        client.flushall()
    yield


@contextmanager
def lock_database(house: House) -> Iterator[None]:
    """A writer that begins and does not end."""
    writer = sqlite3.connect(house.database, timeout=30, isolation_level=None)
    with closing(writer):
        writer.execute("BEGIN EXCLUSIVE")
        yield
        writer.execute("ROLLBACK")


def fill(place: Callable[[House], Path]) -> Strike:
    """Not a byte more on the disk that holds that folder."""

    @contextmanager
    def strike(house: House) -> Iterator[None]:
        filler = place(house) / "filler"
        try:
            for piece in (_MIB, 512):  # the last pages, too
                with filler.open("ab", buffering=0) as file, suppress(OSError):
                    while file.write(bytes(piece)) == piece:
                        pass
            yield
        finally:
            filler.unlink(missing_ok=True)

    return strike


@contextmanager
def read_only_store(house: House) -> Iterator[None]:
    """Nothing can be published, nor any alias be moved."""
    store = house.home / "store"
    subprocess.run(["mount", "--bind", store, store], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", store], check=True)
        yield
    finally:
        subprocess.run(["umount", "--lazy", store], check=False)


def starve(role: str) -> Strike:
    """No more memory for that process than it has: what it asks for next is refused."""

    @contextmanager
    def strike(house: House) -> Iterator[None]:
        process = house.one(role)
        size = process.memory_info().vms
        process.rlimit(psutil.RLIMIT_AS, (size, size))
        yield

    return strike


@contextmanager
def half_open(house: House) -> Iterator[None]:
    """Clients that connect and fall silent: before, within and after the head of a request."""
    head = b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
    said = (b"", head, head + b"Content-Length: 100000\r\n\r\n" + bytes(1000))
    with ExitStack() as stack:
        for number in range(_HALF_OPEN):
            client = socket.create_connection(("127.0.0.1", house.port), timeout=5)
            stack.enter_context(client).sendall(said[number % len(said)])
        yield


def jump(seconds: int) -> Strike:
    """The clock of the wall leaps, for every process of the house at once, and back at the end."""

    @contextmanager
    def strike(house: House) -> Iterator[None]:
        set_clock(house.clock, seconds)
        try:
            yield
        finally:
            set_clock(house.clock, 0)

    return strike


def set_clock(file: Path, seconds: int) -> None:
    """In place, where every process has it mapped."""
    with file.open("r+b" if file.exists() else "wb") as clock:
        clock.write(seconds.to_bytes(8, sys.byteorder, signed=True))


def clock_environment(clock: Path) -> dict[str, str]:
    """What makes every process of a house read the wall's clock with that file's offset.

    Needs a C compiler, for the few lines that it preloads.
    """
    library = clock.with_suffix(".so")
    source = Path(__file__).with_name("clock.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return {"LD_PRELOAD": str(library), "WALL_CLOCK_OFFSET": str(clock)}


def can_mount() -> bool:
    """Whether this process may mount a file system."""
    point = Path(f"/tmp/opsin-mount-{os.getpid()}")
    point.mkdir()
    try:
        command = ["mount", "-t", "tmpfs", "-o", "size=1m", "opsin-chaos", str(point)]
        if subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode:
            return False
        subprocess.run(["umount", "--lazy", point], check=False)
    except FileNotFoundError:
        return False  # no such command here
    finally:
        with suppress(OSError):
            point.rmdir()
    return True


NO_WORKER = frozenset({"503 no_worker", "503 model_not_ready"})
NO_REDIS = NO_WORKER | {"503 dependency_unavailable"}
LATE = frozenset({"504 deadline_exceeded", "429 queue_full"})

FAULTS: tuple[Fault, ...] = (
    Fault("kill -9 of the inference worker", kill("worker"), codes=NO_WORKER | LATE),
    Fault("kill -9 of the API", kill("api"), codes=NO_WORKER | LATE),
    Fault("kill -9 of the job worker", kill("jobs")),
    Fault("kill -9 of a job's own process", kill("child")),
    Fault("kill -9 of Valkey", kill("valkey"), codes=NO_REDIS | LATE),
    Fault("Valkey frozen for 10 s", freeze("valkey"), FROZEN_SECONDS, codes=NO_REDIS | LATE),
    Fault("the worker frozen for 10 s", freeze("worker"), FROZEN_SECONDS, codes=NO_WORKER | LATE),
    Fault("FLUSHALL", flush, codes=NO_WORKER),
    Fault("database locked for 8 s", lock_database, HOLD_SECONDS),
    Fault("database full for 8 s", fill(lambda it: it.database_disk), HOLD_SECONDS, "mounts"),
    Fault("disk full for 8 s", fill(lambda it: it.home), HOLD_SECONDS, "mounts", NO_REDIS | LATE),
    Fault("model store read-only for 8 s", read_only_store, HOLD_SECONDS, "mounts"),
    Fault("the worker out of memory", starve("worker"), codes=NO_WORKER | LATE),
    Fault("200 half-open connections", half_open, HOLD_SECONDS),
    Fault("clock an hour ahead for 8 s", jump(3600), HOLD_SECONDS, "cc", NO_WORKER | LATE),
    Fault("clock an hour back for 8 s", jump(-3600), HOLD_SECONDS, "cc", NO_WORKER | LATE),
)

"""The faults that are injected into a running service.

Each affects one part of a `Deployment` and is removed again if it does not end by itself. Nothing
here helps the service to recover.
"""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import redis

from tests.ports import free_port
from tests.reliability.deployment import Deployment

HOLD_SECONDS = 8.0
FROZEN_SECONDS = 10.0
_CHILD_SECONDS = 60.0
_HALF_OPEN = 200
_REPLICA_SECONDS = 20.0
_MIB = 1024 * 1024

Injector = Callable[[Deployment], AbstractContextManager[None]]


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault.

    Attributes:
        inject: Injects the fault when entered and removes it when left; a kill is not undone.
        hold: Seconds it lasts.
        needs: What the machine must support: ``mounts``, ``cc``, ``sqlite``, ``postgresql``, or
            nothing.
        codes: The codes that requests may get until the service has recovered.
    """

    name: str
    inject: Injector
    hold: float = 0.0
    needs: str = ""
    codes: frozenset[str] = frozenset()


def kill(role: str) -> Injector:
    """Send SIGKILL to a process as soon as it runs."""

    @contextmanager
    def inject(deployment: Deployment) -> Iterator[None]:
        deployment.wait_for(role, _CHILD_SECONDS).kill()
        yield

    return inject


def freeze(role: str) -> Injector:
    """Send SIGSTOP to a process, and SIGCONT at the end."""

    @contextmanager
    def inject(deployment: Deployment) -> Iterator[None]:
        process = deployment.wait_for(role)
        process.suspend()
        try:
            yield
        finally:
            process.resume()

    return inject


@contextmanager
def flush(deployment: Deployment) -> Iterator[None]:
    """Delete everything in Valkey, which continues to run."""
    with redis.Redis.from_url(deployment.redis_url) as client:
        client.flushall()
    yield


@contextmanager
def lock_database(deployment: Deployment) -> Iterator[None]:
    """Hold a write transaction open."""
    writer = sqlite3.connect(deployment.database, timeout=30, isolation_level=None)
    with closing(writer):
        writer.execute("BEGIN EXCLUSIVE")
        yield
        writer.execute("ROLLBACK")


@contextmanager
def silence_database(deployment: Deployment) -> Iterator[None]:
    """Let the connections to PostgreSQL go silent without a reset; new ones work."""
    if deployment.database_proxy is None or not deployment.database_proxy.silence():
        raise RuntimeError("there is no connection to PostgreSQL")
    yield


def fill(place: Callable[[Deployment], Path]) -> Injector:
    """Fill the disk that contains that folder."""

    @contextmanager
    def inject(deployment: Deployment) -> Iterator[None]:
        filler = place(deployment) / "filler"
        try:
            for piece in (_MIB, 512):  # including the last pages
                with filler.open("ab", buffering=0) as file, suppress(OSError):
                    while file.write(bytes(piece)) == piece:
                        pass
            yield
        finally:
            filler.unlink(missing_ok=True)

    return inject


@contextmanager
def read_only_store(deployment: Deployment) -> Iterator[None]:
    """Make the store read-only: nothing can be published or promoted."""
    store = deployment.home / "store"
    subprocess.run(["mount", "--bind", store, store], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", store], check=True)
        yield
    finally:
        subprocess.run(["umount", "--lazy", store], check=False)


def limit_memory(role: str) -> Injector:
    """Limit a process to the memory it has: the next allocation fails."""

    @contextmanager
    def inject(deployment: Deployment) -> Iterator[None]:
        process = deployment.wait_for(role)
        size = process.memory_info().vms
        process.rlimit(psutil.RLIMIT_AS, (size, size))
        yield

    return inject


@contextmanager
def half_open(deployment: Deployment) -> Iterator[None]:
    """Connect clients that send nothing more: before, within and after the head of a request."""
    head = b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
    requests = (b"", head, head + b"Content-Length: 100000\r\n\r\n" + bytes(1000))
    with ExitStack() as stack:
        for number in range(_HALF_OPEN):
            client = socket.create_connection(("127.0.0.1", deployment.port), timeout=5)
            stack.enter_context(client).sendall(requests[number % len(requests)])
        yield


def shift_clock(seconds: int) -> Injector:
    """Shift the wall clock of all processes of the deployment at once, and back at the end."""

    @contextmanager
    def inject(deployment: Deployment) -> Iterator[None]:
        set_clock(deployment.clock, seconds)
        try:
            yield
        finally:
            set_clock(deployment.clock, 0)

    return inject


def shift_worker_clocks(seconds: int) -> Injector:
    """Shift the wall clock of the workers alone, as if they ran on another host."""

    @contextmanager
    def inject(deployment: Deployment) -> Iterator[None]:
        set_clock(deployment.clock, 0, workers=seconds)
        try:
            yield
        finally:
            set_clock(deployment.clock, 0)

    return inject


def slow_disk(milliseconds: int) -> Injector:
    """Let every flush to the disk take that much longer, in all processes."""

    @contextmanager
    def inject(deployment: Deployment) -> Iterator[None]:
        set_clock(deployment.clock, 0, flush=milliseconds)
        try:
            yield
        finally:
            set_clock(deployment.clock, 0)

    return inject


@contextmanager
def stopped_replica(deployment: Deployment) -> Iterator[None]:
    """Give Valkey a replica, which then stops reading, like a host that is cut off."""
    port = free_port()
    binary = deployment.wait_for("valkey").exe()
    with (
        redis.Redis.from_url(deployment.redis_url) as client,
        tempfile.TemporaryDirectory(prefix="opsin-replica-") as folder,
    ):
        client.config_set("bind", "127.0.0.1")
        client.config_set("port", port)
        replica = subprocess.Popen(
            [
                *(binary, "--port", str(free_port()), "--dir", folder, "--save", ""),
                *("--replicaof", "127.0.0.1", str(port)),
            ],
            stdout=subprocess.DEVNULL,
        )
        try:
            until = time.monotonic() + _REPLICA_SECONDS
            while client.info("replication").get("slave0", {}).get("state") != "online":
                if time.monotonic() > until:
                    raise RuntimeError("the replica did not follow")
                time.sleep(0.1)
            replica.send_signal(signal.SIGSTOP)
            yield
        finally:
            replica.kill()
            replica.wait(10)
            client.config_set("port", 0)


def set_clock(file: Path, seconds: int, *, workers: int = 0, flush: int = 0) -> None:
    """Write the offsets in place, because every process has the file mapped; see `clock.c`."""
    values = (seconds, workers, flush)
    with file.open("r+b" if file.exists() else "wb") as clock:
        clock.write(b"".join(value.to_bytes(8, sys.byteorder, signed=True) for value in values))


def clock_environment(clock: Path) -> dict[str, str]:
    """Variables that make every process read the wall clock with the offset in that file.

    Needs a C compiler, for the library that is preloaded.
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
    Fault("connections to PostgreSQL silent", silence_database, needs="postgresql"),
    Fault("database locked for 8 s", lock_database, HOLD_SECONDS, "sqlite"),
    Fault(
        "database full for 8 s",
        fill(lambda deployment: deployment.database_disk),
        HOLD_SECONDS,
        "mounts",
    ),
    Fault(
        "disk full for 8 s",
        fill(lambda deployment: deployment.home),
        HOLD_SECONDS,
        "mounts",
        NO_REDIS | LATE,
    ),
    Fault("model store read-only for 8 s", read_only_store, HOLD_SECONDS, "mounts"),
    Fault("the worker out of memory", limit_memory("worker"), codes=NO_WORKER | LATE),
    Fault("200 half-open connections", half_open, HOLD_SECONDS),
    Fault("Valkey's replica stopped for 10 s", stopped_replica, FROZEN_SECONDS),
    Fault("clock an hour ahead for 8 s", shift_clock(3600), HOLD_SECONDS, "cc", NO_WORKER | LATE),
    Fault("clock an hour back for 8 s", shift_clock(-3600), HOLD_SECONDS, "cc", NO_WORKER | LATE),
    Fault("workers' clock 65 s ahead for 8 s", shift_worker_clocks(65), HOLD_SECONDS, "cc"),
    Fault("disk with flushes of 300 ms for 8 s", slow_disk(300), HOLD_SECONDS, "cc", LATE),
)

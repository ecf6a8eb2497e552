"""Worker ids, from which a process on the same machine can tell that a worker is dead.

A lease expires after a minute. If its holder is known to be dead, there is no need to wait. So the
id contains the machine, the process namespace, the process id and the time of its start. Nothing is
concluded about workers on other machines.
"""

import hashlib
import os
import secrets
import socket
from pathlib import Path

import psutil

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_START_FIELD = 19  # of those after the name
_NAMESPACE = Path("/proc/self/ns/pid")


def new_worker_id() -> str:
    """An id for this process, for `is_dead`."""
    return f"{_machine()}.{os.getpid()}.{_started(os.getpid())}.{secrets.token_hex(4)}"


def is_dead(worker_id: str) -> bool:
    """Whether that worker ran on this machine and is dead; False if it ran elsewhere."""
    machine, *rest = worker_id.split(".")
    if len(rest) != 3 or not rest[0].isdecimal():
        return False
    if machine != _machine():
        return False
    try:
        process = psutil.Process(int(rest[0]))
        started = _started(process.pid)
        if started[:1] != rest[1][:1]:  # of another release
            started = str(int(process.create_time() * 100))
        return started != rest[1] or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False


def _started(pid: int) -> str:
    """When a process started: on Linux `t` and the ticks since the machine's start.

    Seconds since 1970 are derived from these and the clock. When the clock is set, they change for
    all processes, and a living worker would look like another one with its number.

    Raises:
        psutil.Error: There is no such process.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return f"t{int(fields[_START_FIELD])}"
    except (OSError, ValueError, IndexError):  # not Linux, or it has just ended
        return str(int(psutil.Process(pid).create_time() * 100))


def _machine() -> str:
    """A hash that identifies this machine, its current boot and the process namespace."""
    try:
        boot = _BOOT.read_text().strip()
    except OSError:
        boot = ""  # not Linux; the host name has to do
    try:
        namespace = str(_NAMESPACE.stat().st_ino)
    except OSError:
        namespace = ""
    parts = "\n".join((socket.gethostname(), boot, namespace))
    return hashlib.sha256(parts.encode()).hexdigest()[:16]

"""Where a process stands, so that one on the same machine can tell that it is surely dead.

A lease frees itself after a minute. When the holder's process is known to be gone that minute is
wasted, and a name tells: machine, process namespace, process id and the moment it started. What
stands elsewhere is never judged.
"""

import hashlib
import os
import secrets
import socket
from pathlib import Path

import psutil

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_NAMESPACE = Path("/proc/self/ns/pid")


def own_name() -> str:
    """A worker's id that `is_gone` can read."""
    started = int(psutil.Process().create_time() * 100)
    return f"{_place()}.{os.getpid()}.{started}.{secrets.token_hex(4)}"


def is_gone(worker_id: str) -> bool:
    """Whether that worker was here and lives no more; False if it stands elsewhere."""
    place, *rest = worker_id.split(".")
    if len(rest) != 3 or place != _place() or not (rest[0].isdecimal() and rest[1].isdecimal()):
        return False
    try:
        process = psutil.Process(int(rest[0]))
        same = int(process.create_time() * 100) == int(rest[1])
        return not same or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False


def _place() -> str:
    try:
        boot = _BOOT.read_text().strip()
    except OSError:
        boot = ""  # not Linux; the host's name has to do
    try:
        namespace = str(_NAMESPACE.stat().st_ino)
    except OSError:
        namespace = ""
    told = "\n".join((socket.gethostname(), boot, namespace))
    return hashlib.sha256(told.encode()).hexdigest()[:16]

"""The memory of this machine, or of the container in which this process runs.

A container is a control group with a limit of its own. Of several limits, the smallest counts.
"""

import hashlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from contracts.settings import MIB

_GROUPS, _OWN_GROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_RECLAIMABLE = {"inactive_file", "active_file", "slab_reclaimable"}
"""What a control group counts as used, but is given back as soon as it is needed."""


@dataclass(frozen=True, slots=True)
class MachineMemory:
    """Memory in bytes.

    Attributes:
        total: What all processes may have together.
        available: What they could still get.
        owner: An id of the machine or control group whose memory it is, until that is restarted.
    """

    total: int
    available: int
    owner: str


def machine_memory(groups: Path = _GROUPS, own: Path = _OWN_GROUP) -> MachineMemory:
    """The memory of the machine, or of the control group of this process that has less.

    Args:
        groups: Where the control groups (version 2) are mounted.
        own: The file that names the group of this process.
    """
    machine = psutil.virtual_memory()
    total, available, owner = machine.total, machine.available, ""
    for group in _ancestors(groups, own):
        try:
            limit = int((group / "memory.max").read_text())
            left = limit - _held(group)
        except (OSError, ValueError):  # the topmost group, or "max"
            continue
        available = min(available, left)
        if limit < total:
            total, owner = limit, str(group.stat().st_ino)
    return MachineMemory(total, max(0, available), _digest(owner))


def memory_limit(megabytes: int) -> int:
    """Bytes that jobs may use: the setting, or the memory of this machine or container."""
    return megabytes * MIB or machine_memory().total


def _ancestors(groups: Path, own: Path) -> Iterator[Path]:
    """The control group of this process, and those around it."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        lines = []  # not Linux
    path = next((line[3:] for line in lines if line.startswith("0::")), "/")
    group = groups / path.strip("/")
    if ".." not in group.parts:  # as it is for a group outside of what is mounted here
        while group != groups:
            yield group
            group = group.parent
    yield groups


def _held(group: Path) -> int:
    """Bytes that a control group's processes hold."""
    lines = (line.split() for line in (group / "memory.stat").read_text().splitlines())
    cached = sum(int(number) for name, number in lines if name in _RECLAIMABLE)
    return int((group / "memory.current").read_text()) - cached


def _digest(group: str) -> str:
    try:
        boot = _BOOT.read_text().strip()
    except OSError:
        boot = socket.gethostname()
    return hashlib.sha256(f"{boot}\n{group}".encode()).hexdigest()[:16]

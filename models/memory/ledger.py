"""Keeps memory for jobs, so that those of one machine or container fit into it together.

    with MemoryLedger.of(settings).reserve(size, waiting=work.check):
        ...  # which takes that much memory

Each process has a file in `$OPSIN_HOME/memory`, whose name says how many bytes it has reserved or
waits for. It holds the file's lock, which the kernel releases when the process has ended and its
memory is free: what a killed process leaves behind is a file that the next one removes. Memory is a
property of the machine or the container, so only files of the same one count together. A process
writes into its file what it uses, which those in other containers cannot measure.
"""

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event, Thread
from typing import Self

import psutil
import structlog

from contracts.settings import MIB, Settings
from models.locks import LockHeldError, locked, try_lock
from models.memory.machine import MachineMemory, machine_memory

log = structlog.get_logger()

ALONE_SECONDS = 20.0
"""How long a job waits for other processes than jobs, which may never give back their memory."""
SHORT_SECONDS = 600.0
"""For how long after such a wait, or a start without one, no further job waits for them."""
POLL_SECONDS = 0.5
SMALL_BYTES = 1536 * MIB
"""A job that needs no more is small: an import, a heatmap, most trainings on features."""
_LOCK = "lock"
_LOCK_SECONDS = 1.0
_USED_SECONDS = 2.0
_LEAST_BYTES = 1024 * MIB  # of a lowered reservation
_STATUS = Path("/proc/self/status")
_NAMESPACE = Path("/proc/self/ns/pid")
_NAME = re.compile(r"([0-9a-f]{16})-(\d+)-(\d+)-(\d+)-(\d+)-(waiting|reserved)")


@dataclass(frozen=True, slots=True)
class Entry:
    """A process and its memory.

    Attributes:
        owner: Of the memory, see `MachineMemory`.
        ticket: The order of arrival.
        size: Bytes that it has reserved or waits for.
        namespace: In which `pid` is valid.
        used: Bytes that the process and its children have; 0 if that is not known.
    """

    owner: str
    ticket: int
    size: int
    namespace: int
    pid: int
    is_reserved: bool = False
    used: int = 0

    @classmethod
    def parse(cls, name: str) -> Self | None:
        """The entry of a file's name; None if it is another file."""
        match = _NAME.fullmatch(name)
        if match is None:
            return None
        owner, *numbers, state = match.groups()
        ticket, size, namespace, pid = map(int, numbers)
        return cls(owner, ticket, size, namespace, pid, is_reserved=state == "reserved")

    @property
    def name(self) -> str:
        """The name of its file."""
        state = "reserved" if self.is_reserved else "waiting"
        return f"{self.owner}-{self.ticket}-{self.size}-{self.namespace}-{self.pid}-{state}"


def kept_bytes(capacity: int) -> int:
    """Of the memory for all jobs, what large jobs leave to small ones; a small machine keeps none.

    Args:
        capacity: Bytes for all.
    """
    return SMALL_BYTES if capacity >= 4 * SMALL_BYTES else 0


def has_room(entry: Entry, others: Sequence[Entry], capacity: int) -> bool:
    """Whether a process that waits may have its memory now.

    It may pass another one that has waited for longer only if both fit beside all that have passed
    that one. So no process waits for one that came later, however many come.

    Large jobs get together at most what is not kept for small ones. One that would need more, but
    fits into all that there is, counts as that much, or as what it uses by then. So does one that
    needs more than there is, while it waits to be alone (`Reservation.enter`).

    Args:
        entry: The process.
        others: All others that have reserved memory or wait.
        capacity: Bytes for all.
    """
    if entry.size > capacity:
        return False
    kept = kept_bytes(capacity)
    reserved = [other for other in others if other.is_reserved]
    large = sum(max(_counted(one, capacity), one.used) for one in reserved if _is_large(one))
    small = sum(max(one.size, one.used) for one in reserved if not _is_large(one))
    if _is_large(entry):
        small = max(small, kept)
    if _counted(entry, capacity) + large + small > capacity:
        return False
    for passed in others:
        if not passed.is_reserved and passed.ticket < entry.ticket:
            later = sum(_counted(one, capacity) for one in reserved if one.ticket > passed.ticket)
            if _counted(passed, capacity) + later + _counted(entry, capacity) > capacity:
                return False
    return True


def _is_large(entry: Entry) -> bool:
    return entry.size > SMALL_BYTES


def _counted(entry: Entry, capacity: int) -> int:
    """Bytes that a process counts as: those of a large one end where what is kept begins."""
    if not _is_large(entry):
        return entry.size
    return min(entry.size, capacity - kept_bytes(capacity))


class MemoryLedger:
    """The memory that the jobs of this machine have reserved.

    Args:
        folder: For the files; the same for all processes of an installation.
        limit: Bytes for all jobs of this machine; 0 for its memory without what other processes
            hold.
        measure: Reads the machine's memory.
    """

    def __init__(
        self, folder: Path, limit: int = 0, measure: Callable[[], MachineMemory] = machine_memory
    ) -> None:
        self._folder = folder
        self._limit = limit
        self._measure = measure

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The ledger of this installation."""
        return cls(settings.memory_home, settings.training_memory_mb * MIB)

    @contextmanager
    def reserve(self, size: int, waiting: Callable[[], object]) -> Iterator["Reservation"]:
        """Wait until there is room, and keep it while the block runs.

        Args:
            size: Bytes; if it is more than there is for all jobs, the process will be alone.
            waiting: Called between two looks; may raise.
        """
        reservation = Reservation(self._folder, size, self._limit, self._measure)
        try:
            while not reservation.enter():
                waiting()
                time.sleep(POLL_SECONDS)
            yield reservation
        finally:
            reservation.leave()


class Reservation:
    """The place of this process in the ledger."""

    def __init__(
        self, folder: Path, size: int, limit: int, measure: Callable[[], MachineMemory]
    ) -> None:
        self._folder = folder
        self._size = size
        self._limit = limit
        self._measure = measure
        self._entry: Entry | None = None
        self._file = -1
        self._alone_since: float | None = None
        self._left = Event()
        self._thread = Thread(target=self._write_used, name="memory", daemon=True)

    def enter(self) -> bool:
        """Reserve the memory if there is room; otherwise be among those that wait."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            # One at a time: nobody else can be admitted to the room that is found here.
            with locked(self._folder / _LOCK, timeout=_LOCK_SECONDS):
                if not self._reserved(self._measure()):
                    return False
        except LockHeldError:
            return False
        self._thread.start()
        return True

    def lower(self, size: int) -> bool:
        """Keep only as much of what was reserved; return whether that is less.

        Args:
            size: Bytes. There is no way back: who needs more has to reserve again.
        """
        try:
            with locked(self._folder / _LOCK, timeout=_LOCK_SECONDS):
                entry = self._entry
                if entry is None or not entry.is_reserved or size >= entry.size:
                    return False
                self._replace(entry, replace(entry, size=size))
                return True
        except LockHeldError:
            return False

    def lower_to_peak(self) -> None:
        """Keep what this process has had at most, and a margin, of what was reserved.

        It still has to export, check and explain what it has trained: that took up to a fifth more.
        """
        peak = peak_bytes()
        size = max(_LEAST_BYTES, int(1.25 * peak) + 256 * MIB)
        if peak and self.lower(size):
            log.info("memory_lowered", peak=peak, bytes=size)

    def leave(self) -> None:
        """Give back what was reserved."""
        self._left.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._entry is None:
            return
        with suppress(FileNotFoundError):
            (self._folder / self._entry.name).unlink()
        os.close(self._file)

    def _reserved(self, memory: MachineMemory) -> bool:
        total = self._limit or memory.total
        others = [one for one in self._living() if one.owner == memory.owner]
        entry = self._entry or self._arrive(others, memory.owner, total)
        capacity = self._limit or min(total, memory.available + sum(one.used for one in others))
        if not (
            has_room(entry, others, capacity) or self._has_waited_alone(entry, others, capacity)
        ):
            return False
        self._replace(entry, replace(entry, is_reserved=True))
        return True

    def _replace(self, entry: Entry, changed: Entry) -> None:
        (self._folder / entry.name).rename(self._folder / changed.name)
        self._entry = changed

    def _write_used(self) -> None:
        """Say to processes in other containers how much this one uses."""
        while True:
            with suppress(OSError):  # such as a full disk
                os.pwrite(self._file, f"{_used(os.getpid()):<20}".encode(), 0)
            if self._left.wait(_USED_SECONDS):
                return

    def _arrive(self, others: Iterable[Entry], owner: str, total: int) -> Entry:
        ticket = max((one.ticket for one in others), default=0) + 1
        entry = Entry(owner, ticket, min(self._size, total), _namespace(), os.getpid())
        # Python's descriptors are not inherited by the programs that this process starts.
        self._file = os.open(self._folder / entry.name, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        self._entry = entry
        try_lock(self._file)
        return entry

    def _has_waited_alone(self, entry: Entry, others: Sequence[Entry], capacity: int) -> bool:
        """Whether no job would leave it more memory, since only other processes hold it.

        Those that have passed it, into the room that is kept for small ones, would be followed by
        others. If other processes have kept it from another job a while ago, it is not waited for
        again.
        """
        beside = sum(max(one.size, one.used) for one in others if one.is_reserved)
        is_next = all(one.ticket > entry.ticket for one in others)
        if not is_next or beside > kept_bytes(capacity):
            self._alone_since = None
            return False
        now = time.monotonic()
        self._alone_since = self._alone_since or now
        short = self._folder / f"short-{entry.owner}"
        if now - self._alone_since < ALONE_SECONDS and not _is_recent(short):
            return False
        short.touch(mode=0o600)
        log.warning("memory_short", needed=entry.size, available=self._measure().available)
        return True

    def _living(self) -> Iterator[Entry]:
        """All other entries; files of dead processes are removed."""
        namespace = _namespace()
        for path in self._folder.iterdir():
            entry = Entry.parse(path.name)
            if entry is None or entry == self._entry:
                continue
            if _is_free(path):
                path.unlink(missing_ok=True)
            elif not entry.is_reserved:
                yield entry
            elif entry.namespace == namespace:
                yield replace(entry, used=_used(entry.pid))
            else:
                yield replace(entry, used=_written(path))


def _written(path: Path) -> int:
    """Bytes that a process in another container says that it uses; 0 if it has not yet."""
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0


def _is_recent(path: Path) -> bool:
    """Whether a file was written a while ago; the clock may have been set since."""
    try:
        return abs(time.time() - path.stat().st_mtime) < SHORT_SECONDS
    except FileNotFoundError:
        return False


def _is_free(path: Path) -> bool:
    """Whether nobody holds a file's lock any more."""
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        return try_lock(file, shared=True)
    finally:
        os.close(file)


def peak_bytes() -> int:
    """The most that this process ever had for itself, and what its children have; 0 if unknown."""
    try:
        status = _STATUS.read_text(encoding="ascii")
        # Not `getrusage`, whose maximum is also that of the process that started this one.
        peak, *shared = (_kilobytes(status, name) for name in ("VmHWM", "RssFile", "RssShmem"))
    except (OSError, ValueError):
        return 0  # not Linux
    children = psutil.Process().children(recursive=True)
    return peak - sum(shared) + sum(map(_own_bytes, children))


def _kilobytes(status: str, name: str) -> int:
    """A number of `/proc/…/status`, in bytes."""
    _, _, rest = status.partition(f"{name}:")
    return int(rest.split(maxsplit=1)[0]) * 1024 if rest else 0


def _used(pid: int) -> int:
    """Bytes that a process and its children have for themselves."""
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        return sum(map(_own_bytes, (process, *process.children(recursive=True))))
    return 0


def _own_bytes(process: psutil.Process) -> int:
    with suppress(psutil.Error):
        memory = process.memory_info()
        return int(memory.rss - getattr(memory, "shared", 0))
    return 0


def _namespace() -> int:
    try:
        return _NAMESPACE.stat().st_ino
    except OSError:
        return 0  # not Linux

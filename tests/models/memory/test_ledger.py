"""The memory of several processes: by the rule alone, and with real processes."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from models.locks import locked
from models.memory import ledger as ledger_module
from models.memory.ledger import (
    SMALL_BYTES,
    Entry,
    MemoryLedger,
    Reservation,
    has_room,
    peak_bytes,
)
from models.memory.machine import MachineMemory

ROOT = Path(__file__).resolve().parents[3]
OWNER = "0" * 16
GB = 10**9


def entry(ticket: int, size: int, *, reserved: bool = False, used: int = 0) -> Entry:
    return Entry(OWNER, ticket, size, 1, ticket, is_reserved=reserved, used=used)


def test_a_name_says_everything() -> None:
    for one in (entry(7, 10**12), entry(8, 5, reserved=True)):
        assert Entry.parse(one.name) == one
    for name in ("lock", "", f"{OWNER}-1-2-3-4-lost", f"../{OWNER}-1-2-3-4-waiting"):
        assert Entry.parse(name) is None


@pytest.mark.parametrize(
    ("others", "size", "expected"),
    [
        ([], 10, True),
        ([], 11, False),
        ([entry(1, 6, reserved=True)], 4, True),
        ([entry(1, 6, reserved=True)], 5, False),
        # It has more than it said.
        ([entry(1, 6, reserved=True, used=7)], 4, False),
        # Both fit beside each other, once the first has ended.
        ([entry(1, 6, reserved=True), entry(2, 7)], 3, True),
        # The one that waits would have to wait for it.
        ([entry(1, 6, reserved=True), entry(2, 7)], 4, False),
        # Another one has passed it before.
        ([entry(1, 4, reserved=True), entry(2, 7), entry(3, 2, reserved=True)], 1, True),
        ([entry(1, 4, reserved=True), entry(2, 7), entry(3, 2, reserved=True)], 2, False),
        # Who came later does not matter.
        ([entry(1, 6, reserved=True), entry(11, 7)], 4, True),
    ],
)
def test_who_has_room(others: list[Entry], size: int, expected: bool) -> None:
    assert has_room(entry(10, size), others, 10) is expected


SMALL = SMALL_BYTES


@pytest.mark.parametrize(
    ("others", "size", "expected"),
    [
        # What nearly all is reserved for has not used it: a small one begins beside it.
        ([entry(1, 9 * SMALL, reserved=True)], SMALL, True),
        ([entry(1, 10 * SMALL, reserved=True)], SMALL, True),
        ([entry(1, 10 * SMALL, reserved=True, used=9 * SMALL + 1)], SMALL, False),
        # One at a time, and no large one.
        ([entry(1, 10 * SMALL, reserved=True), entry(2, SMALL, reserved=True)], 1, False),
        ([entry(1, 8 * SMALL, reserved=True)], SMALL + 1, False),
        ([entry(1, 6 * SMALL, reserved=True)], 3 * SMALL, True),
        ([entry(1, 7 * SMALL, reserved=True)], 3 * SMALL, False),
        # A large one may use it all, beside small ones of no more than is kept for them.
        ([], 10 * SMALL, True),
        ([entry(1, SMALL, reserved=True)], 10 * SMALL, True),
        ([entry(1, SMALL, reserved=True), entry(2, 1, reserved=True)], 10 * SMALL, False),
        # A small one does not wait behind a large one that waits.
        ([entry(1, 8 * SMALL, reserved=True), entry(2, 10 * SMALL)], SMALL, True),
        # Nor behind one that needs more than other programs have left.
        ([entry(1, 8 * SMALL, reserved=True), entry(2, 11 * SMALL)], SMALL, True),
        ([entry(1, 8 * SMALL, reserved=True), entry(2, 11 * SMALL)], SMALL + 1, False),
        (
            [entry(1, SMALL, reserved=True), entry(2, 11 * SMALL), entry(3, 1, reserved=True)],
            SMALL,
            False,
        ),
    ],
)
def test_large_ones_leave_room_for_a_small_one(
    others: list[Entry], size: int, expected: bool
) -> None:
    assert has_room(entry(10, size), others, 10 * SMALL) is expected


def test_a_small_machine_keeps_no_room() -> None:
    assert has_room(entry(2, 1), [entry(1, 4 * SMALL - 1, reserved=True)], 4 * SMALL - 1) is False


def test_small_ones_do_not_keep_a_large_one_waiting() -> None:
    """Ones that always come again, until the large one has room: those before it have ended."""
    waits = entry(5, 10 * SMALL)
    earlier = [entry(1, 5 * SMALL, reserved=True)]
    later = [entry(6, SMALL // 2, reserved=True), entry(7, SMALL // 2, reserved=True)]
    assert has_room(entry(8, SMALL // 2), [waits, *earlier, *later[:1]], 10 * SMALL)
    assert not has_room(entry(8, SMALL // 2), [waits, *earlier, *later], 10 * SMALL)
    assert not has_room(waits, earlier, 10 * SMALL)
    assert has_room(waits, later, 10 * SMALL)


def test_small_ones_without_end_do_not_keep_a_large_one_waiting() -> None:
    """One ends at each step and the next one arrives, so that there is never room for 90."""
    running: dict[Entry, int] = {}
    waiting: list[Entry] = []
    began: list[int] = []
    for step in range(1, 60):
        running = {one: left - 1 for one, left in running.items() if left > 1}
        waiting.append(entry(step, 90 if step == 20 else 30))
        for one in list(waiting):
            others = [other for other in waiting if other is not one]
            others += [replace(other, is_reserved=True) for other in running]
            if has_room(one, others, 100):
                waiting.remove(one)
                running[one] = 3
                began.append(one.ticket)
        assert sum(one.size for one in running) <= 100
    assert began[:20] == list(range(1, 21))


class Holder:
    """A process that reserves memory."""

    def __init__(self, folder: Path, limit: int, size: int, *options: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.models.memory.holder", folder, str(limit), str(size),
             *options],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(60) == 0

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(60)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


@pytest.fixture
def hold(tmp_path: Path) -> Iterator[Callable[..., Holder]]:
    holders = []

    def start(gigabytes: int, *options: str) -> Holder:
        holders.append(Holder(tmp_path / "memory", 100 * GB, gigabytes * GB, *options))
        return holders[-1]

    yield start
    for holder in holders:
        holder.kill()


def test_two_that_do_not_fit_run_one_after_the_other(
    hold: Callable[..., Holder], tmp_path: Path
) -> None:
    first = hold(60)
    assert first.line() == "reserved"
    second = hold(60)
    assert second.line() == "waiting"
    beside = hold(30)
    assert beside.line() == "reserved"
    first.end()
    assert second.line() == "reserved"
    second.end()
    beside.end()
    assert [path.name for path in (tmp_path / "memory").iterdir()] == ["lock"]


def test_of_many_at_once_only_those_that_fit_are_admitted(
    hold: Callable[..., Holder], tmp_path: Path
) -> None:
    holders = [hold(40) for _ in range(6)]
    folder = tmp_path / "memory"
    for left in range(6, 0, -1):
        deadline = time.monotonic() + 60
        while True:
            entries = [Entry.parse(path.name) for path in list(folder.glob("*-*"))]
            reserved = [one for one in entries if one is not None and one.is_reserved]
            assert len(reserved) <= 2
            if len(entries) == left and len(reserved) == min(2, left):
                break
            assert time.monotonic() < deadline, entries
            time.sleep(0.02)
        first = next(one for one in holders if one.process.pid == reserved[0].pid)
        first.end()


def test_a_killed_process_leaves_nothing_reserved_even_if_its_child_lives(
    hold: Callable[..., Holder],
) -> None:
    first = hold(60, "child")
    child = psutil.Process(int(first.line()))
    assert first.line() == "reserved"
    second = hold(60)
    assert second.line() == "waiting"
    first.process.send_signal(signal.SIGKILL)
    assert second.line() == "reserved"
    assert child.is_running()
    child.kill()


def test_a_killed_waiter_does_not_keep_others_waiting(hold: Callable[..., Holder]) -> None:
    first = hold(60)
    assert first.line() == "reserved"
    large = hold(100)
    assert large.line() == "waiting"
    small = hold(30)
    assert small.line() == "waiting"  # it would pass the large one
    large.kill()
    assert small.line() == "reserved"


def test_a_large_one_is_not_passed_for_ever(hold: Callable[..., Holder]) -> None:
    first = hold(30)
    assert first.line() == "reserved"
    large = hold(90)
    assert large.line() == "waiting"
    small = [hold(30) for _ in range(3)]
    assert [one.line() for one in small] == ["waiting"] * 3
    first.end()
    assert large.line() == "reserved"
    large.end()
    assert [one.line() for one in small] == ["reserved"] * 3


def test_more_than_there_is_waits_until_it_is_alone(hold: Callable[..., Holder]) -> None:
    first = hold(2)
    assert first.line() == "reserved"
    huge = hold(1000)
    assert huge.line() == "waiting"
    first.end()
    assert huge.line() == "reserved"


class StopError(Exception):
    pass


def stop() -> None:
    raise StopError


def test_what_other_processes_hold_is_not_for_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine of 100, of which other processes hold 30."""
    monkeypatch.setattr(ledger_module, "_used", lambda _: 0)  # whatever has run in this process
    memory = MachineMemory(100 * GB, 70 * GB, OWNER)
    ledger = MemoryLedger(tmp_path, measure=lambda: memory)
    with ledger.reserve(40 * GB, stop):
        # This process has not used what it has reserved, so 30 are promised to nobody.
        with pytest.raises(StopError), ledger.reserve(29 * GB, stop):
            pass  # a small one would have no room any more
        with ledger.reserve(28 * GB, stop), ledger.reserve(SMALL, stop):
            pass


def test_what_a_job_uses_of_its_share_is_not_counted_twice(tmp_path: Path) -> None:
    size = 64 * 1024 * 1024
    ballast = bytearray(b"x" * size)
    used = psutil.Process().memory_info()
    own = used.rss - used.shared
    # All that is used is ours, and twice as much is ours to use.
    memory = MachineMemory(3 * own, 2 * own, OWNER)
    ledger = MemoryLedger(tmp_path, measure=lambda: memory)
    with ledger.reserve(2 * own, stop), ledger.reserve(own // 2, stop):
        assert len(ballast) == size


def test_jobs_of_another_machine_do_not_count(tmp_path: Path) -> None:
    owners = iter(["1" * 16, "2" * 16])
    ledger = MemoryLedger(tmp_path, 100 * GB, lambda: MachineMemory(GB, GB, next(owners)))
    with ledger.reserve(100 * GB, stop), ledger.reserve(100 * GB, stop):
        assert len(list(tmp_path.glob("*-reserved"))) == 2


def test_a_job_that_is_alone_does_not_wait_for_other_programs_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "_used", lambda _: 0)  # whatever has run in this process
    ledger = MemoryLedger(tmp_path, measure=lambda: MachineMemory(10**12, 10, OWNER))
    with pytest.raises(StopError), ledger.reserve(10**9, stop):
        pass
    monkeypatch.setattr(ledger_module, "ALONE_SECONDS", 0.5)
    began, waits = time.monotonic(), []
    with ledger.reserve(10**9, lambda: waits.append(1)):
        assert time.monotonic() - began >= 0.5
        assert waits
        # Beside it, however, nothing begins.
        deadline = time.monotonic() + 1.5

        def until_deadline() -> None:
            if time.monotonic() > deadline:
                raise StopError

        with pytest.raises(StopError), ledger.reserve(1, until_deadline):
            pass


def test_small_jobs_without_end_do_not_keep_one_waiting_that_is_alone_but_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine of 24, of which other programs hold 8: one that needs 20 waits for those."""
    monkeypatch.setattr(ledger_module, "_used", lambda _: 0)  # whatever has run in this process
    monkeypatch.setattr(ledger_module, "ALONE_SECONDS", 1.0)
    ledger = MemoryLedger(tmp_path, measure=lambda: MachineMemory(24 * GB, 16 * GB, OWNER))
    large = Reservation(tmp_path, 20 * GB, 0, lambda: MachineMemory(24 * GB, 16 * GB, OWNER))
    with ledger.reserve(2 * GB, stop):
        assert not large.enter()
        with ledger.reserve(GB, stop):  # does not wait for what may wait for hours
            assert not large.enter()
    began, entered = time.monotonic(), False
    while not entered:
        assert time.monotonic() < began + 10
        with ledger.reserve(GB, stop):
            entered = large.enter()
    assert time.monotonic() >= began + 1
    large.leave()


def test_others_do_not_wait_again_for_what_other_programs_keep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "_used", lambda _: 0)
    monkeypatch.setattr(ledger_module, "ALONE_SECONDS", 1.0)
    ledger = MemoryLedger(tmp_path, measure=lambda: MachineMemory(2 * GB, GB // 2, OWNER))
    began = time.monotonic()
    with ledger.reserve(GB, lambda: None):
        waited = time.monotonic() - began
    assert waited >= 1
    for _ in range(3):
        with ledger.reserve(GB, stop):
            pass
    # Later they may have given it back.
    monkeypatch.setattr(ledger_module, "SHORT_SECONDS", 0.0)
    with pytest.raises(StopError), ledger.reserve(GB, stop):
        pass


def test_a_reservation_is_lowered_and_never_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "_used", lambda _: 0)  # whatever has run in this process
    ledger = MemoryLedger(tmp_path, 4 * GB)
    with ledger.reserve(3 * GB, stop) as first:
        with pytest.raises(StopError), ledger.reserve(2 * GB, stop):
            pass
        assert first.lower(2 * GB)
        assert not first.lower(3 * GB)
        with ledger.reserve(2 * GB, stop), pytest.raises(StopError), ledger.reserve(1, stop):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_the_peak_is_what_the_process_and_its_children_had() -> None:
    code = (
        "from models.memory.ledger import peak_bytes\n"
        "import subprocess, sys\n"
        "before = peak_bytes(); ballast = bytearray(200_000_000); del ballast\n"
        "own = peak_bytes()\n"
        "waits = 'b = bytearray(100_000_000); print(1, flush=True); input()'\n"
        "child = subprocess.Popen([sys.executable, '-c', waits], stdin=-1, stdout=-1)\n"
        "child.stdout.readline()\n"
        "print(own - before, peak_bytes() - own)\n"
        "child.kill()\n"
    )
    text = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True)
    own, child = map(int, text.split())
    assert 180e6 < own < 260e6
    assert 95e6 < child < 160e6
    assert peak_bytes() > 0


def test_a_job_in_another_container_says_what_it_uses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process has another number there: a machine of 10, of which it has taken its 6."""
    entered, wait = threading.Event(), threading.Event()
    memory = MachineMemory(10 * GB, 4 * GB, OWNER)
    ledger = MemoryLedger(tmp_path, measure=lambda: memory)

    def run() -> None:
        empty = MachineMemory(10 * GB, 10 * GB, OWNER)
        with MemoryLedger(tmp_path, measure=lambda: empty).reserve(6 * GB, stop):
            entered.set()
            wait.wait(60)

    monkeypatch.setattr(ledger_module, "_used", lambda _: 6 * GB)
    monkeypatch.setattr(ledger_module, "_namespace", lambda: 1)
    thread = threading.Thread(target=run)
    thread.start()
    assert entered.wait(60)
    monkeypatch.setattr(ledger_module, "_namespace", lambda: 2)
    deadline = time.monotonic() + 60

    def until_deadline() -> None:
        assert time.monotonic() < deadline

    with ledger.reserve(2 * GB, until_deadline):
        pass
    wait.set()
    thread.join()


def test_one_that_is_stopped_while_it_waits_leaves_nothing(tmp_path: Path) -> None:
    ledger = MemoryLedger(tmp_path, 100 * GB)
    with ledger.reserve(100 * GB, stop):
        with pytest.raises(StopError), ledger.reserve(2 * GB, stop):
            pass
        assert len(list(tmp_path.glob("*-*"))) == 1
        open_files = [file.path for file in psutil.Process().open_files()]
        assert not [path for path in open_files if "waiting" in path]


def test_a_writer_that_hangs_does_not_fail_the_others(tmp_path: Path) -> None:
    """A process may be suspended while it looks for room."""
    ledger = MemoryLedger(tmp_path, 100 * GB)
    entered, waits = threading.Event(), []

    def run() -> None:
        with ledger.reserve(1, lambda: waits.append(1)):
            entered.set()

    with locked(tmp_path / "lock"):
        thread = threading.Thread(target=run)
        thread.start()
        assert not entered.wait(1.5)
        deadline = time.monotonic() + 60
        while not waits and time.monotonic() < deadline:
            time.sleep(0.02)
    assert entered.wait(60)
    assert waits
    thread.join()

"""`make chaos`: every fault under a steady load, and the account of each as one row of a table.

    python -m tests.reliability.chaos [--only WORDS] [--rate 10]

A row is good if nothing is lost: every request has an answer within its deadline, right or with a
documented code, and every accepted job succeeds. The exit status is 1 where one is not.
"""

import argparse
import asyncio
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.flow.running import ROOT
from tests.reliability.faults import (
    FAULTS,
    Fault,
    can_mount,
    clock_environment,
    set_clock,
)
from tests.reliability.house import House
from tests.reliability.traffic import Account, Traffic

CALM_SECONDS = 3.0
JOB_REFUSALS = frozenset({"503 dependency_unavailable"})
"""A job is only promised once it is stored: while it cannot be, it is refused."""

# So often must all be well for the service to count as recovered.
_STEADY_LOOKS = 5
_LOOK_SECONDS = 0.6
_RECOVERY_SECONDS = 180.0


@dataclass(frozen=True, slots=True)
class Row:
    """What a fault came to.

    Attributes:
        fault: Which.
        account: What was sent and what became of it.
        recovery: Seconds from the end of the fault to the last request that failed.
        came_back: Whether all was well again, by itself, in time.
    """

    fault: Fault
    account: Account
    recovery: float
    came_back: bool

    @property
    def lost(self) -> int:
        """Requests and jobs that nobody ever answered for."""
        jobs = [*self.account.jobs.values(), *self.account.refused_jobs.elements()]
        return self.account.codes()["lost"] + jobs.count("lost")

    @property
    def wrong(self) -> int:
        """Answers that say something else than in calm times."""
        return sum(not one.is_right for one in self.account.requests)

    @property
    def undocumented(self) -> set[str]:
        """What this fault does not explain."""
        failed = set(self.account.codes()) - self.fault.codes
        refused = set(self.account.refused_jobs) - JOB_REFUSALS - self.fault.codes
        return (failed | refused | set(self.account.jobs.values())) - {"lost", "succeeded"}

    def told(self) -> str:
        """In a line, for who watches."""
        requests, codes, jobs = self.account.requests, self.account.codes(), self.account.jobs
        verdict = "good" if self.is_good else f"[red]not good[/] {sorted(self.undocumented)}"
        return (
            f"{self.fault.name}: {verdict}; {len(requests)} sent, {_told(codes)} failed, "
            f"{len(self.account.cut)} cut, {len(jobs)} jobs ({_told(Counter(jobs.values()))}), "
            f"{_told(self.account.refused_jobs)} refused, {self.lost} lost, {self.wrong} wrong, "
            f"{self.recovery:.1f} s"
        )

    @property
    def is_good(self) -> bool:
        return self.came_back and not (self.lost or self.wrong or self.undocumented)


def _struck(fault: Fault, house: House) -> float:
    """The moment from which the service is on its own: a kill's, or that of the fault's end."""
    with fault.strike(house):
        time.sleep(fault.hold)
    return time.monotonic()


async def suffer(house: House, fault: Fault, pictures: dict[str, bytes], rate: float) -> Row:
    """One fault: calm, the fault, and on until all is well again."""
    traffic = Traffic(house.url, pictures, rate=rate, job_every=16 / rate)
    await traffic.start(len(pictures))
    await asyncio.sleep(CALM_SECONDS)
    ended = await asyncio.to_thread(_struck, fault, house)
    came_back = await _recovered(house, traffic)
    account = await traffic.finish()
    return Row(fault, account, account.recovered_after(ended), came_back)


async def _recovered(house: House, traffic: Traffic) -> bool:
    """Whether all is well several times on end."""
    until, well = time.monotonic() + _RECOVERY_SECONDS, 0
    while time.monotonic() < until:
        ready = await asyncio.to_thread(house.is_ready)
        well = well + 1 if ready and house.lives() and await traffic.serves() else 0
        if well == _STEADY_LOOKS:
            return True
        await asyncio.sleep(_LOOK_SECONDS)
    return False


class Matrix:
    """Runs faults one after the other, in one house for as long as it recovers.

    Args:
        fetched: A home with `weights` and `samples`.
        rate: Requests a second.
        console: Told each row as it is done.
    """

    def __init__(self, fetched: Path, rate: float, console: Console) -> None:
        self._fetched = fetched
        self._rate = rate
        self._console = console
        samples = sorted((fetched / "samples").glob("*.png"))
        self._pictures = {file.stem: file.read_bytes() for file in samples}
        self._able = {"": True, "mounts": can_mount(), "cc": shutil.which("cc") is not None}
        self._house: House | None = None
        self._clock_moves = False

    def run(self, faults: Sequence[Fault]) -> list[Row]:
        """A row for each that this machine can do; the others are told of."""
        rows = []
        with tempfile.TemporaryDirectory(prefix="opsin-chaos-") as folder:
            try:
                for number, fault in enumerate(faults):
                    if not self._able[fault.needs]:
                        self._console.print(
                            f"left out  {fault.name}: this machine has no {fault.needs}"
                        )
                        continue
                    rows.append(self._row(fault, Path(folder, str(number))))
            finally:
                self._close()
        return rows

    def _row(self, fault: Fault, folder: Path) -> Row:
        house = self._fit(fault, folder)
        row = asyncio.run(suffer(house, fault, self._pictures, self._rate))
        self._console.print(row.told(), highlight=False)
        if not row.is_good:
            if not row.came_back:
                self._console.print(house.tails(), markup=False)
            self._close()
        return row

    def _fit(self, fault: Fault, folder: Path) -> House:
        """The house of the last fault where it can be struck by this one, too."""
        moves = fault.needs == "cc"
        if self._house is not None and moves == self._clock_moves:
            return self._house
        self._close()
        folder.mkdir()
        set_clock(folder / "clock", 0)
        env = clock_environment(folder / "clock") if moves else {}
        self._house = House(
            folder,
            self._fetched,
            env,
            mounts=self._able["mounts"],
            store=self._fetched / "store",
        )
        self._clock_moves = moves
        self._house.start()
        return self._house

    def _close(self) -> None:
        if self._house is not None:
            self._house.close()
            self._house = None


def table(rows: Sequence[Row]) -> Table:
    """The account, a fault a row."""
    made = Table(title="What each fault costs")
    left = {"fault", "failed with", "jobs", "jobs refused with"}
    for heading in (
        *("fault", "sent", "answered", "failed with", "cut, asked again", "jobs"),
        *("jobs refused with", "lost", "wrong", "recovery"),
    ):
        made.add_column(heading, justify="left" if heading in left else "right")
    for row in rows:
        account, codes = row.account, row.account.codes()
        made.add_row(
            row.fault.name if row.is_good else f"[red]{row.fault.name}[/]",
            str(len(account.requests)),
            str(len(account.requests) - codes.total()),
            _told(codes),
            str(len(account.cut)),
            _told(Counter(account.jobs.values())),
            _told(account.refused_jobs),
            str(row.lost),
            str(row.wrong),
            f"{row.recovery:.1f} s" if row.came_back else "none",
        )
    return made


def _told(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {code}" for code, count in sorted(counts.items())) or "-"


def main() -> int:
    """Run them; 1 if a row is not good."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", action="append", help="Faults whose name holds these words; again for more."
    )
    parser.add_argument("--rate", type=float, default=10.0, help="Requests a second.")
    asked = parser.parse_args()
    # Told to end, it still stops the house and takes its disks away.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    console = Console(width=180)
    fetched = Path(os.environ.get("OPSIN_HOME", ROOT / "var"))
    words = asked.only or [""]
    chosen = [fault for fault in FAULTS if any(one in fault.name for one in words)]
    rows = Matrix(fetched, asked.rate, console).run(chosen)
    console.print(table(rows))
    return 0 if rows and all(row.is_good for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())

"""`make fuzz`: every gate for strangers' bytes, under bombs and mutations, and what became of them.

    python -m tests.reliability.fuzz [--examples 20000] [--only WORDS]

Hypothesis makes the inputs: a file of the corpus with bits turned, numbers made extreme, pieces
cut out, doubled or taken from another file. What is neither taken nor refused with a code of ours
is a finding; Hypothesis then looks for the smallest input that shows it. The exit status is 1.
"""

import argparse
import logging
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table

from contracts.errors import OpsinError
from tests.reliability.forked_decoder import forking
from tests.reliability.fuzz_targets import Target, targets

# Hypothesis remembers what it has tried, so it begins anew after so many.
_ROUND = 500
_EXTREME = (b"\x00", b"\x7f", b"\x80", b"\xff", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0" * 4)
_MIB = 1024 * 1024
_WORST_CODES = {"internal_error"}


@dataclass(slots=True)
class Tally:
    """What became of the inputs of one target.

    Attributes:
        name: The target's.
        became: How many were taken, and refused with which code.
        slowest: Seconds.
        findings: Traces of what nobody expected.
        early: Resident bytes after a tenth of the inputs.
        late: At the end.
    """

    name: str
    became: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    findings: list[str] = field(default_factory=list)
    early: int = 0
    late: int = 0

    @property
    def growth(self) -> float:
        """Megabytes that the later nine tenths left behind."""
        return max(0, self.late - self.early) / _MIB


@st.composite
def mutated(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """A file of the corpus, changed in one to six places."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        to = at + draw(st.integers(1, 64))
        match draw(st.sampled_from(("turn", "extreme", "cut", "double", "splice", "end"))):
            case "turn" if data:
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "extreme":
                number = draw(st.sampled_from(_EXTREME))
                data[at : at + len(number)] = number
            case "cut":
                del data[at:to]
            case "double":
                data[at:at] = data[at:to] * draw(st.integers(1, 20))
            case "splice":
                other = draw(st.sampled_from(seeds))
                start = draw(st.integers(0, max(0, len(other) - 1)))
                data[at:to] = other[start : start + 256]
            case "end":
                del data[at:]
    return bytes(data)


def attack(target: Target, examples: int, *, first_seed: int = 8) -> Tally:
    """Feed a target its bombs, and then so many mutations."""
    tally = Tally(target.name)
    for bomb in target.bombs:
        _tried(partial(_feed, target, bomb, tally), tally)
    done = 0
    while done < examples and not tally.findings:
        count = min(_ROUND, examples - done)
        _round(target, count, first_seed + done, tally)
        done += count
        tally.late = psutil.Process().memory_info().rss
        if done >= examples / 10:
            tally.early = tally.early or tally.late
    return tally


def _round(target: Target, examples: int, number: int, tally: Tally) -> None:
    @seed(number)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(mutated(target.seeds))
    def run(data: bytes) -> None:
        _feed(target, data, tally)

    _tried(run, tally)


def _tried(run: Callable[[], None], tally: Tally) -> None:
    try:
        run()
    except Exception:  # noqa: BLE001 (any is a finding)
        tally.findings.append(traceback.format_exc(limit=-6))


def _feed(target: Target, data: bytes, tally: Tally) -> None:
    began = time.monotonic()
    try:
        became = target.feed(data)
    except OpsinError as refused:
        became = refused.code
        if became in _WORST_CODES:
            raise
    tally.slowest = max(tally.slowest, time.monotonic() - began)
    tally.became[became] += 1


def table(tallies: Sequence[Tally]) -> Table:
    """The counts, a target a row."""
    made = Table(title="What strangers' bytes come to")
    for heading in ("gate", "inputs", "taken", "refused", "findings", "slowest", "growth"):
        made.add_column(heading, justify="left" if heading in {"gate", "refused"} else "right")
    for tally in tallies:
        refused = sorted((tally.became - Counter(taken=tally.became["taken"])).items())
        made.add_row(
            tally.name,
            f"{tally.became.total():,}",
            f"{tally.became['taken']:,}",
            ", ".join(f"{count:,} {code}" for code, count in refused),
            str(len(tally.findings)),
            f"{tally.slowest:.2f} s",
            f"{tally.growth:.1f} MiB",
        )
    return made


def main() -> int:
    """Attack all; 1 if anything was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=20_000, help="Mutations a gate.")
    parser.add_argument("--only", default="", help="Gates whose name holds these words.")
    parser.add_argument("--seed", type=int, default=8)
    asked = parser.parse_args()
    console = Console(width=140)
    logging.disable()  # a line for each that is refused
    tallies = []
    with tempfile.TemporaryDirectory(prefix="opsin-fuzz-") as folder, forking():
        for target in targets(Path(folder)):
            if asked.only in target.name:
                tallies.append(attack(target, asked.examples, first_seed=asked.seed))
                for finding in tallies[-1].findings:
                    console.print(finding, markup=False)
    console.print(table(tallies))
    return 1 if any(tally.findings for tally in tallies) else 0


if __name__ == "__main__":
    sys.exit(main())

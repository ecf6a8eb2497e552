"""`make fuzz`: feeds bombs and mutations to every input that accepts untrusted bytes.

    python -m tests.reliability.fuzz [--examples 20000] [--only WORDS]

Hypothesis generates the inputs: a file of the corpus with bits flipped, numbers replaced by extreme
ones, and pieces removed, repeated or taken from another file. An input that is neither accepted nor
refused with one of our codes is a finding; Hypothesis then searches for the smallest input that
causes it, and the exit status is 1.
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
from tests.reliability.forked_decoder import forked_decoders
from tests.reliability.fuzz_targets import ACCEPTED, Target, targets

# Hypothesis remembers what it has tried, so it is restarted after this many.
_ROUND = 500
_EXTREME = (b"\x00", b"\x7f", b"\x80", b"\xff", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0" * 4)
_MIB = 1024 * 1024
_WORST_CODES = {"internal_error"}


@dataclass(slots=True)
class Tally:
    """What happened to the inputs of one target.

    Attributes:
        outcomes: How many were accepted, or refused with which code.
        slowest: Seconds.
        findings: Tracebacks of unexpected exceptions.
        early: Resident bytes after a tenth of the inputs.
        late: Resident bytes at the end.
    """

    name: str
    outcomes: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    findings: list[str] = field(default_factory=list)
    early: int = 0
    late: int = 0

    @property
    def growth(self) -> float:
        """By how many MiB memory grew over the last nine tenths."""
        return max(0, self.late - self.early) / _MIB


@st.composite
def mutations(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """A file of the corpus, changed in one to six places."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, max(0, len(data) - 1)))
        end = start + draw(st.integers(1, 64))
        match draw(st.sampled_from(("flip", "extreme", "cut", "repeat", "splice", "truncate"))):
            case "flip" if data:
                data[start] ^= 1 << draw(st.integers(0, 7))
            case "extreme":
                number = draw(st.sampled_from(_EXTREME))
                data[start : start + len(number)] = number
            case "cut":
                del data[start:end]
            case "repeat":
                data[start:start] = data[start:end] * draw(st.integers(1, 20))
            case "splice":
                other = draw(st.sampled_from(seeds))
                offset = draw(st.integers(0, max(0, len(other) - 1)))
                data[start:end] = other[offset : offset + 256]
            case "truncate":
                del data[start:]
    return bytes(data)


def fuzz_target(target: Target, examples: int, *, first_seed: int = 8) -> Tally:
    """Feed a target its bombs and then mutations."""
    tally = Tally(target.name)
    for bomb in target.bombs:
        _record_failure(partial(_send_periodically, target, bomb, tally), tally)
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
    @given(mutations(target.seeds))
    def run(data: bytes) -> None:
        _send_periodically(target, data, tally)

    _record_failure(run, tally)


def _record_failure(run: Callable[[], None], tally: Tally) -> None:
    try:
        run()
    except Exception:  # noqa: BLE001 (any exception is a finding)
        tally.findings.append(traceback.format_exc(limit=-6))


def _send_periodically(target: Target, data: bytes, tally: Tally) -> None:
    began = time.monotonic()
    try:
        outcomes = target.feed(data)
    except OpsinError as refused:
        outcomes = refused.code
        if outcomes in _WORST_CODES:
            raise
    tally.slowest = max(tally.slowest, time.monotonic() - began)
    tally.outcomes[outcomes] += 1


def table(tallies: Sequence[Tally]) -> Table:
    """The counts, one row for each target."""
    result_table = Table(title="Untrusted bytes")
    for heading in ("input", "tried", "accepted", "refused", "findings", "slowest", "growth"):
        result_table.add_column(
            heading, justify="left" if heading in {"input", "refused"} else "right"
        )
    for tally in tallies:
        refused = sorted((tally.outcomes - Counter({ACCEPTED: tally.outcomes[ACCEPTED]})).items())
        result_table.add_row(
            tally.name,
            f"{tally.outcomes.total():,}",
            f"{tally.outcomes[ACCEPTED]:,}",
            ", ".join(f"{count:,} {code}" for code, count in refused),
            str(len(tally.findings)),
            f"{tally.slowest:.2f} s",
            f"{tally.growth:.1f} MiB",
        )
    return result_table


def main() -> int:
    """Fuzz all targets; 1 if there was a finding."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=20_000, help="Mutations for each input.")
    parser.add_argument("--only", default="", help="Only inputs whose name contains this.")
    parser.add_argument("--seed", type=int, default=8)
    arguments = parser.parse_args()
    console = Console(width=140)
    logging.disable()  # one line for each refused input
    tallies = []
    with tempfile.TemporaryDirectory(prefix="opsin-fuzz-") as folder, forked_decoders():
        for target in targets(Path(folder)):
            if arguments.only in target.name:
                tallies.append(fuzz_target(target, arguments.examples, first_seed=arguments.seed))
                for finding in tallies[-1].findings:
                    console.print(finding, markup=False)
    console.print(table(tallies))
    return 1 if any(tally.findings for tally in tallies) else 0


if __name__ == "__main__":
    sys.exit(main())

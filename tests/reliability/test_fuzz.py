"""The quick version of `make fuzz`: every bomb, and some mutations at every gate."""

import warnings
from collections.abc import Iterator

import pytest

from tests.reliability.forked_decoder import forking
from tests.reliability.fuzz import Tally, attack
from tests.reliability.fuzz_targets import TAKEN, Target, targets

EXAMPLES = 150
# What Pillow and the archive readers say of damage is for people who look at files.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def gates(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Target]]:
    with forking():
        yield targets(tmp_path_factory.mktemp("fuzz"))


@pytest.mark.parametrize("number", range(7))
def test_strangers_bytes_are_taken_or_refused(gates: list[Target], number: int) -> None:
    tally = attack(gates[number], EXAMPLES)
    assert not tally.findings, tally.findings[0]
    assert tally.became.total() >= EXAMPLES
    assert tally.became[TAKEN] < tally.became.total(), "some must be refused"
    assert tally.slowest < 10


def test_every_gate_is_tried(gates: list[Target]) -> None:
    assert len(gates) == 7


def test_a_gate_that_breaks_is_found_and_its_smallest_input_told() -> None:
    def feed(data: bytes) -> str:
        if b"\xff" in data:
            raise ZeroDivisionError
        return TAKEN

    tally = attack(Target("broken", [b"abc"], feed), 500)
    assert isinstance(tally, Tally)
    assert len(tally.findings) == 1
    assert "ZeroDivisionError" in tally.findings[0]


def test_a_bomb_that_breaks_a_gate_is_found() -> None:
    def feed(data: bytes) -> str:
        if data == b"bomb":
            raise MemoryError
        return TAKEN

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tally = attack(Target("broken", [b"abc"], feed, bombs=[b"bomb"]), 10)
    assert "MemoryError" in tally.findings[0]

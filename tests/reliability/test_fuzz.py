"""The quick version of `make fuzz`: every bomb and some mutations for every input."""

import warnings
from collections.abc import Iterator

import pytest

from tests.reliability.forked_decoder import forked_decoders
from tests.reliability.fuzz import Tally, fuzz_target
from tests.reliability.fuzz_targets import ACCEPTED, Target, targets

EXAMPLES = 150
# Pillow and the archive readers warn about damaged files.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def fuzz_targets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Target]]:
    with forked_decoders():
        yield targets(tmp_path_factory.mktemp("fuzz"))


@pytest.mark.parametrize("number", range(8))
def test_untrusted_bytes_are_accepted_or_refused(fuzz_targets: list[Target], number: int) -> None:
    tally = fuzz_target(fuzz_targets[number], EXAMPLES)
    assert not tally.findings, tally.findings[0]
    assert tally.outcomes.total() >= EXAMPLES
    assert tally.outcomes[ACCEPTED] < tally.outcomes.total(), "some must be refused"
    assert tally.slowest < 10


def test_every_input_is_tried(fuzz_targets: list[Target]) -> None:
    assert len(fuzz_targets) == 8


def test_unexpected_exception_is_a_finding() -> None:
    def feed(data: bytes) -> str:
        if b"\xff" in data:
            raise ZeroDivisionError
        return ACCEPTED

    tally = fuzz_target(Target("broken", [b"abc"], feed), 500)
    assert isinstance(tally, Tally)
    assert len(tally.findings) == 1
    assert "ZeroDivisionError" in tally.findings[0]


def test_bomb_that_raises_is_a_finding() -> None:
    def feed(data: bytes) -> str:
        if data == b"bomb":
            raise MemoryError
        return ACCEPTED

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tally = fuzz_target(Target("broken", [b"abc"], feed, bombs=[b"bomb"]), 10)
    assert "MemoryError" in tally.findings[0]

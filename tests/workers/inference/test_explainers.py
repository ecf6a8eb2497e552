"""Loading beside the work: joined, bounded, and let go of with its version."""

from collections.abc import Callable
from threading import Event
from typing import Any

import pytest

from workers.inference.explanations import Explainers


class GaveUpError(Exception):
    """The one who waited has gone."""


def gives_up() -> None:
    raise GaveUpError


class Loaded:
    """What is loaded; it has traced two graphs."""

    traces = 2


class Slow:
    """Loads nothing, but only when it is told to; keeps count."""

    def __init__(self) -> None:
        self.began: list[tuple[str, int]] = []
        self.go_on = Event()
        self.fails = False

    def __call__(self, model: str, version: int) -> Any:
        self.began.append((model, version))
        assert self.go_on.wait(10)
        if self.fails:
            raise OSError("the disk")
        return Loaded()


@pytest.fixture
def slow() -> Slow:
    return Slow()


def always(_model: str, _version: int) -> bool:
    return True


def test_a_load_nobody_waited_for_is_joined_by_the_next_who_asks(slow: Slow) -> None:
    explainers = Explainers(slow, 2, always)
    for _ in range(3):
        with pytest.raises(GaveUpError):
            explainers.get("a", 1, gives_up)
    first = explainers.get("a", 1, slow.go_on.set)
    assert slow.began == [("a", 1)]
    assert explainers.get("a", 1, gives_up) is first


def test_a_load_that_failed_is_told_and_then_tried_again(slow: Slow) -> None:
    explainers = Explainers(slow, 2, always)
    slow.fails = True
    with pytest.raises(OSError, match="the disk"):
        explainers.get("a", 1, slow.go_on.set)
    slow.fails = False
    explainers.get("a", 1, lambda: None)
    assert slow.began == [("a", 1)] * 2


def test_who_asks_within_the_waiting_loads_nothing_twice_nor_too_many(slow: Slow) -> None:
    explainers = Explainers(slow, 1, always)
    slow.go_on.set()
    before = explainers.get("old", 1, lambda: None)
    slow.go_on.clear()
    nested: list[Any] = []

    def between() -> None:
        if not nested:
            nested.append(None)
            nested[0] = explainers.get("a", 1, slow.go_on.set)

    assert explainers.get("a", 1, between) is nested[0]
    assert slow.began == [("old", 1), ("a", 1)]
    assert len(explainers) == 1
    assert explainers.get("old", 1, lambda: None) is not before


def test_another_one_within_the_waiting_takes_the_place(slow: Slow) -> None:
    explainers = Explainers(slow, 1, always)
    asked: list[Any] = []

    def between() -> None:
        if not asked:
            asked.append(None)
            explainers.get("b", 1, slow.go_on.set)

    explainers.get("a", 1, between)
    assert sorted(slow.began) == [("a", 1), ("b", 1)]
    assert len(explainers) == 1


def test_what_the_worker_no_longer_holds_is_let_go(slow: Slow) -> None:
    held = {("a", 1), ("b", 1)}
    explainers = Explainers(slow, 3, lambda *key: key in held)
    slow.go_on.set()
    for model in ("a", "b"):
        explainers.get(model, 1, lambda: None)
    held.remove(("a", 1))
    explainers.get("b", 1, lambda: None)
    assert len(explainers) == 1


def test_other_work_beside_is_joined_by_its_key(slow: Slow) -> None:
    explainers = Explainers(slow, 1, always)
    load: Callable[[], None] = lambda: slow("served", 1)  # noqa: E731 (a signature)
    with pytest.raises(GaveUpError):
        explainers.load_beside("predictor", load, gives_up)
    explainers.load_beside("predictor", load, slow.go_on.set)
    assert slow.began == [("served", 1)]
    slow.fails = True
    with pytest.raises(OSError, match="the disk"):
        explainers.load_beside("predictor", load, lambda: None)

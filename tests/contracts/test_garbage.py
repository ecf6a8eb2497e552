import gc
import weakref
from collections.abc import Iterator

import pytest

from contracts.garbage import collect_all, collect_less_often, set_aside


class Node:
    """An object that refers to itself, so that only the collector frees it."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def _thawed() -> Iterator[None]:
    yield
    gc.unfreeze()


def test_what_is_set_aside_is_no_longer_looked_at() -> None:
    kept = Node()
    set_aside()
    assert gc.get_freeze_count() > 10_000
    assert not any(one is kept for one in gc.get_objects())


def test_garbage_is_not_set_aside() -> None:
    node = weakref.ref(Node())
    set_aside()
    assert node() is None


def test_what_was_set_aside_is_collected_once_it_is_dropped() -> None:
    node = Node()
    dropped = weakref.ref(node)
    set_aside()
    del node
    gc.collect()
    assert dropped() is not None
    collect_all()
    assert dropped() is None
    assert gc.get_freeze_count() > 10_000


def test_objects_that_live_are_looked_at_less_often() -> None:
    before = gc.get_threshold()
    runs: list[str] = []

    def count(phase: str, _info: dict[str, int]) -> None:
        runs.append(phase)

    try:
        collect_less_often()
        gc.collect()
        gc.callbacks.append(count)
        alive = [Node() for _ in range(1500)]
        gc.callbacks.remove(count)
    finally:
        gc.set_threshold(*before)
    assert alive
    assert not runs

"""The cache of Keras models: loads are joined, bounded, and dropped with their version."""

from threading import Event
from typing import Any

import pytest

from workers.inference.explanations import ExplainerCache
from workers.inference.loaded_models import LoadedModels


class GaveUpError(Exception):
    """The waiting client has gone."""


def give_up() -> None:
    raise GaveUpError


class StubExplainer:
    """A loaded explainer that has traced two graphs."""

    traces = 2


class SlowLoader:
    """Loads nothing, but only once it may proceed; counts the calls."""

    def __init__(self) -> None:
        self.began: list[tuple[str, int]] = []
        self.proceed = Event()
        self.fails = False

    def __call__(self, model: str, version: int) -> Any:
        self.began.append((model, version))
        assert self.proceed.wait(60)
        if self.fails:
            raise OSError("the disk")
        return StubExplainer()


class StubVersion:
    version = 1


@pytest.fixture
def slow() -> SlowLoader:
    return SlowLoader()


@pytest.fixture
def models() -> LoadedModels:
    models = LoadedModels()
    for name in ("a", "b", "old", "served"):
        models.add(name, StubVersion())  # type: ignore[arg-type]
    return models


def test_load_of_a_client_that_gave_up_is_joined_by_the_next(
    slow: SlowLoader, models: LoadedModels
) -> None:
    explainers = ExplainerCache(slow, 2, models)
    for _ in range(3):
        with pytest.raises(GaveUpError):
            explainers.get("a", 1, give_up)
    first = explainers.get("a", 1, slow.proceed.set)
    assert slow.began == [("a", 1)]
    assert explainers.get("a", 1, give_up) is first


def test_failed_load_is_reported_and_tried_again(slow: SlowLoader, models: LoadedModels) -> None:
    explainers = ExplainerCache(slow, 2, models)
    slow.fails = True
    with pytest.raises(OSError, match="the disk"):
        explainers.get("a", 1, slow.proceed.set)
    slow.fails = False
    explainers.get("a", 1, lambda: None)
    assert slow.began == [("a", 1)] * 2


def test_nested_request_joins_the_load_and_respects_the_limit(
    slow: SlowLoader, models: LoadedModels
) -> None:
    explainers = ExplainerCache(slow, 1, models)
    slow.proceed.set()
    before = explainers.get("old", 1, lambda: None)
    slow.proceed.clear()
    nested: list[Any] = []

    def between() -> None:
        if not nested:
            nested.append(None)
            nested[0] = explainers.get("a", 1, slow.proceed.set)

    assert explainers.get("a", 1, between) is nested[0]
    assert slow.began == [("old", 1), ("a", 1)]
    assert len(explainers) == 1
    assert explainers.get("old", 1, lambda: None) is not before


def test_nested_request_for_another_version_takes_the_place(
    slow: SlowLoader, models: LoadedModels
) -> None:
    explainers = ExplainerCache(slow, 1, models)
    requested: list[str] = []

    def between() -> None:
        if not requested:
            requested.append("b")
            explainers.get("b", 1, slow.proceed.set)

    explainers.get("a", 1, between)
    assert sorted(slow.began) == [("a", 1), ("b", 1)]
    assert len(explainers) == 1


def test_explainer_of_an_evicted_version_is_dropped(slow: SlowLoader, models: LoadedModels) -> None:
    explainers = ExplainerCache(slow, 3, models)
    slow.proceed.set()
    for name in ("a", "b"):
        explainers.get(name, 1, lambda: None)
    models.remove("a", 1)
    explainers.get("b", 1, lambda: None)
    assert len(explainers) == 1


def test_background_work_is_joined_by_its_key(slow: SlowLoader, models: LoadedModels) -> None:
    explainers = ExplainerCache(slow, 1, models)

    def load() -> None:
        slow("served", 1)

    with pytest.raises(GaveUpError):
        explainers.run_in_background("predictor", load, give_up)
    explainers.run_in_background("predictor", load, slow.proceed.set)
    assert slow.began == [("served", 1)]
    slow.fails = True
    with pytest.raises(OSError, match="the disk"):
        explainers.run_in_background("predictor", load, lambda: None)

from typing import Any

import pytest

from contracts.errors import ValidationFailed
from models.training.sweeps.grid import combinations, with_values

GRID = {"seed": [1, 2], "learning_rate.head": [0.1, 0.2, 0.3]}


def test_all_combinations_come_once_and_in_order() -> None:
    assert list(combinations(GRID, 20, 8)) == [
        {"seed": seed, "learning_rate.head": rate}
        for seed in GRID["seed"]
        for rate in GRID["learning_rate.head"]
    ]


def test_more_than_wanted_are_drawn_by_the_seed() -> None:
    drawn = list(combinations(GRID, 3, 8))
    assert len(drawn) == 3
    assert drawn == list(combinations(GRID, 3, 8))
    assert all(each in list(combinations(GRID, 20, 8)) for each in drawn)
    assert any(list(combinations(GRID, 3, seed)) != drawn for seed in range(9))
    large = {f"field{n}": list(range(10)) for n in range(6)}
    assert len(list(combinations(large, 5, 1))) == 5


def test_values_are_put_where_their_path_leads() -> None:
    training = {"model": "m", "learning_rate": {"scratch": 1}, "head": None}
    made = with_values(training, {"learning_rate.head": 2, "head.units": [8], "seed": 3})
    assert made == {
        "model": "m",
        "learning_rate": {"scratch": 1, "head": 2},
        "head": {"units": [8]},
        "seed": 3,
    }
    assert training["learning_rate"] == {"scratch": 1}
    with pytest.raises(ValidationFailed, match="model is no object"):
        with_values(training, {"model.name": 1})


def test_a_body_that_is_nested_without_end_is_refused() -> None:
    nested: dict[str, Any] = {}
    for _ in range(900):
        nested = {"head": nested}
    with pytest.raises(ValidationFailed, match="nested"):
        with_values(nested, {})

"""What clients may hold at the same time."""

import pytest

from contracts.errors import QueueFull
from service.fair_budget import FairBudget
from service.inference.fair_pool import part_of


def test_one_client_has_half_and_a_request_on_its_own_always_fits() -> None:
    budget = FairBudget(100, "Full. Retry soon.")
    budget.take("a", 500)
    with pytest.raises(QueueFull, match=r"Full\. Retry soon\."):
        budget.take("b", 1)
    budget.give_back("a", 500)
    with budget.held("a", 40):
        budget.require("a", 10)
        with pytest.raises(QueueFull):
            budget.require("a", 11)
        budget.require("b", 50)
        with pytest.raises(QueueFull):
            budget.require("b", 51)
        budget.require("a", 500, mine=40)  # it is the only one
    with budget.held("b", 500):
        pass


def test_the_parts_of_a_client_share_its_half() -> None:
    budget = FairBudget(100, "Full. Retry soon.")
    with budget.held(part_of("app", "anna"), 30), budget.held(part_of("app", "ben"), 20):
        with pytest.raises(QueueFull):
            budget.require(part_of("app", "carla"), 1)
        with budget.held("other", 50):
            pass
    budget.take("other", 500)

"""What is wrong many times becomes few errors: each costs microseconds on the event loop."""

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

import contracts
from contracts.bodies import MAX_FIELDS, Body
from contracts.faces.calibration import CalibrationBody
from contracts.faces.consent import NewPolicy
from contracts.faces.subjects import NewSubject, SubjectChange
from contracts.training.sweeps import SweepBody
from contracts.training.training_options import Head, StepSchedule
from contracts.training.trainings import TrainingRequest

MANY = 5000
LARGE = (
    *(CalibrationBody, NewPolicy, NewSubject, SubjectChange),
    *(SweepBody, TrainingRequest, Head, StepSchedule),
)
"""Those of which a body may have thousands of values, and their parts."""


def errors(model: type[BaseModel], body: dict[str, Any]) -> int:
    try:
        model.model_validate(body)
    except ValidationError as error:
        return error.error_count()
    return 0


def bodies(model: type[Body]) -> Iterator[type[Body]]:
    for kind in model.__subclasses__():
        yield kind
        yield from bodies(kind)


def test_of_many_unknown_fields_one_error_is_made() -> None:
    for module in pkgutil.walk_packages(contracts.__path__, "contracts."):
        importlib.import_module(module.name)
    found = [kind for kind in bodies(Body) if kind.model_fields]
    assert {*LARGE} <= {*found}
    for kind in found:
        assert errors(kind, {f"a{number}": 1 for number in range(MAX_FIELDS + 1)}) == 1, kind
        assert len(kind.model_fields) <= MAX_FIELDS * 2 // 3, "there is room for misspelt ones"


@pytest.mark.parametrize("model", LARGE)
def test_a_field_of_many_wrong_values_makes_few_errors(model: type[BaseModel]) -> None:
    wrong = ([{}] * MANY, ["?"] * MANY, {str(number): {} for number in range(MANY)})
    missing = errors(model, {})
    for name in model.model_fields:
        for value in wrong:
            assert errors(model, {name: value}) <= missing + 10, name

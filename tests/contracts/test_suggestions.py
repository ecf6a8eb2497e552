"""Misspelt fields and values get a suggestion."""

import difflib
import time
from typing import Any

import pytest
from pydantic import ValidationError

from contracts.keys import NewKey
from contracts.suggestions import MAX_COMPARED, explained, similar
from contracts.training.trainings import TrainingRequest

TRAINING = {"dataset_id": "ds_1", "model": "pets", "network": "vgg16"}


@pytest.mark.parametrize(
    ("body", "meant"),
    [
        (TRAINING | {"epoch": {"head": 1}}, "Did you mean epochs"),
        (TRAINING | {"augmentation": {"rotatoin": 3}}, "Did you mean rotation?"),
        (TRAINING | {"network": "vgg61"}, "or vgg16"),
        (TRAINING | {"strategy": "finetuning"}, "Did you mean fine_tuning?"),
        (TRAINING | {"zzz": 1}, "There is no such field."),
        (TRAINING | {"model": "My Pets"}, "lowercase letters, digits, - and _"),
        (TRAINING | {"dataset_id": "pets"}, "An id begins with ds_"),
    ],
)
def test_a_misspelt_name_gets_a_suggestion(body: dict[str, Any], meant: str) -> None:
    with pytest.raises(ValidationError) as refused:
        TrainingRequest.model_validate(body)
    messages = [explained(error, TrainingRequest) for error in refused.value.errors()]
    assert any(meant in message for message in messages), messages


def test_few_names_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes a tenth of a millisecond, on the event loop."""
    compared: list[str] = []

    def counted(name: str, *_: object, **__: object) -> list[str]:
        compared.append(name)
        return []

    monkeypatch.setattr(difflib, "get_close_matches", counted)
    with pytest.raises(ValidationError) as refused:
        TrainingRequest.model_validate({f"x{number}": 1 for number in range(90)})
    for number, error in enumerate(refused.value.errors()):
        assert explained(error, TrainingRequest, number)
    assert 0 < len(compared) <= MAX_COMPARED


def test_an_unknown_model_or_another_error_keeps_its_message() -> None:
    with pytest.raises(ValidationError) as refused:
        NewKey.model_validate({"name": "", "scopes": ["infer"], "scops": 1})
    for error in refused.value.errors():
        assert explained(error, None) == error["msg"]
    assert similar("zebra", ["lion", "tiger"]) == ""


def test_a_name_of_megabytes_is_not_compared() -> None:
    began = time.process_time()
    assert similar("lion" * 2_000_000, ["lion", "tiger"]) == ""
    assert time.process_time() - began < 2

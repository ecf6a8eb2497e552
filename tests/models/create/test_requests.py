from typing import Any

import pytest
from pydantic import ValidationError

from contracts.create.requests import DreamRequest, StyleTransferRequest


@pytest.mark.parametrize(
    ("sent", "colors"),
    [("true", "luminance"), (True, "luminance"), ("0", "none"), ("histogram", "histogram")],
)
def test_colors_take_a_yes_or_no(sent: Any, colors: str) -> None:
    assert StyleTransferRequest(preserve_colors=sent).preserve_colors == colors


@pytest.mark.parametrize(
    "sent", ["0.7,0.3", ["0.7", "0.3"], ["0.7, 0.3"], [0.7, 0.3], "[0.7, 0.3]"]
)
def test_lists_may_have_commas(sent: Any) -> None:
    assert StyleTransferRequest(style_weights=sent).style_weights == [0.7, 0.3]


@pytest.mark.parametrize(
    "sent",
    [
        {"size": 8193},
        {"iterations": 0},
        {"style_weight": "nan"},
        {"style_weights": [1] * 5},
        {"a": 1},
    ],
)
def test_what_makes_no_sense_is_refused(sent: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        StyleTransferRequest(**sent)


@pytest.mark.parametrize(
    "sent",
    [
        "a/b=1,c_2=0.5",
        "a/b,c_2: 0.5",
        ["a/b:1.0", "c_2:5e-1"],
        '{"a/b": 1.0, "c_2": 0.5}',
        {"a/b": 1.0, "c_2": 0.5},
    ],
)
def test_layers_may_come_with_their_weights(sent: Any) -> None:
    request = DreamRequest(layers=sent)
    assert (request.layers, request.layer_weights) == (["a/b", "c_2"], [1.0, 0.5])
    assert DreamRequest.model_validate(request.model_dump(exclude_none=True)) == request


@pytest.mark.parametrize("sent", ["a,b", '["a", "b"]', ["a", "b"]])
def test_layers_without_weights_have_none(sent: Any) -> None:
    request = DreamRequest(layers=sent)
    assert (request.layers, request.layer_weights) == (["a", "b"], None)


@pytest.mark.parametrize(
    ("sent", "levels", "warned"),
    [
        ({"step_size": 2}, 2, False),
        ({"step_size": "0.1"}, 0.1, False),
        ({"step_size": 0.01}, 1.275, True),
        ({"step_size": 0.01, "step_unit": "range"}, 1.275, False),
        ({"step_size": 0.2, "step_unit": "range"}, 25.5, False),
        ({"step_size": 0.01, "step_unit": "levels"}, 0.01, False),
    ],
)
def test_a_step_says_its_unit_or_is_warned_about(
    sent: dict[str, Any], levels: float, warned: bool
) -> None:
    request = DreamRequest(**sent)
    assert request.step_levels == pytest.approx(levels)
    assert ["step_unit" in warning for warning in request.warnings] == [True] * warned


def test_a_step_of_more_than_all_levels_is_refused() -> None:
    with pytest.raises(ValidationError, match="step_unit=levels"):
        DreamRequest(step_size=5, step_unit="range")

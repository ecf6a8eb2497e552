from typing import Any

import pytest
from pydantic import ValidationError

from contracts.create.requests import StyleTransferRequest


@pytest.mark.parametrize(
    ("sent", "colors"),
    [("true", "luminance"), (True, "luminance"), ("0", "none"), ("histogram", "histogram")],
)
def test_colors_take_a_yes_or_no(sent: Any, colors: str) -> None:
    assert StyleTransferRequest(preserve_colors=sent).preserve_colors == colors


@pytest.mark.parametrize("sent", ["0.7,0.3", ["0.7", "0.3"], ["0.7, 0.3"], [0.7, 0.3]])
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

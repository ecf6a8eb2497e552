"""What is let through, and what is refused before it takes a machine down."""

from typing import Any

import pytest

from contracts.errors import ValidationFailed
from contracts.training.trainings import TrainableNetwork
from models.training.loop.recipe import RECIPES
from models.training.memory import _SHAPES, check_size, estimate, memory_limit
from models.training.presets import PRESETS, training_request
from models.training.validation import MOST_CLASSES, check_count

GB = 1_000_000_000
HUGE: list[dict[str, Any]] = [
    {"network": "vgg16", "image_size": 1024, "head": {"pooling": "flatten", "units": [8192]}},
    {"network": "vgg16", "image_size": 1024, "batch_size": 1024, "strategy": "fine_tuning"},
    {"network": "vgg19", "image_size": 1024},
    {"network": "cnn_small", "image_size": 1024},
    {"network": "efficientnet_lite0", "image_size": 1024, "batch_size": 512,
     "strategy": "from_scratch"},
]  # fmt: skip


def asked(**more: Any) -> Any:
    return training_request({"dataset_id": "ds_1", "model": "m", "network": "vgg16"} | more)


def test_every_network_is_known_as_it_is() -> None:
    sizes = {name: shape.size for name, shape in _SHAPES.items()}
    assert sizes == {name: recipe.input_size for name, recipe in RECIPES.items()}


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_fits_an_ordinary_machine(preset: str) -> None:
    request = training_request({"dataset_id": "ds_1", "model": "m", "preset": preset})
    check_size(request, 120, 8 * GB)


@pytest.mark.parametrize("network", _SHAPES)
def test_every_network_fits_as_it_is_by_default(network: TrainableNetwork) -> None:
    check_size(asked(network=network), 1000, 12 * GB)


@pytest.mark.parametrize("more", HUGE)
def test_what_would_never_fit_is_refused_with_what_it_takes(more: dict[str, Any]) -> None:
    with pytest.raises(
        ValidationFailed, match=r"about [\d.]+ GB.*OPSIN_TRAINING_MEMORY_MB"
    ) as told:
        check_size(asked(**more), 10, 16 * GB)
    assert "Send less of" in told.value.detail


def test_what_to_send_less_of_is_what_takes_most() -> None:
    for more, word in ((HUGE[0], "units"), (HUGE[1], "batch_size")):
        with pytest.raises(ValidationFailed, match=word):
            check_size(asked(**more), 10, 16 * GB)


def test_more_of_anything_takes_more() -> None:
    least = estimate(asked(strategy="fine_tuning"), 10).total
    for more in ({"batch_size": 64}, {"image_size": 448}, {"head": {"units": [4096, 4096]}}):
        assert estimate(asked(strategy="fine_tuning", **more), 10).total > least
    assert estimate(asked(strategy="fine_tuning"), 900).total > least


def test_the_limit_is_the_setting_or_the_machine() -> None:
    assert memory_limit(100) == 100 * 1024 * 1024
    assert memory_limit(0) > GB


def test_classes_are_bounded() -> None:
    check_count(MOST_CLASSES)
    with pytest.raises(ValidationFailed, match="1,000"):
        check_count(MOST_CLASSES + 1)

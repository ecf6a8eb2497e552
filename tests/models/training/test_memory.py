"""Which trainings the memory estimate accepts and refuses."""

from typing import Any

import pytest

from contracts.errors import ValidationFailed
from contracts.training.trainings import TrainableNetwork
from models.memory.machine import memory_limit
from models.training.loop.network_defaults import NETWORK_DEFAULTS
from models.training.memory import _SHAPES, check_memory, estimate
from models.training.presets import PRESETS, training_request

GB = 1_000_000_000
HUGE: list[dict[str, Any]] = [
    {"network": "vgg16", "image_size": 1024, "head": {"pooling": "flatten", "units": [8192]}},
    {"network": "vgg16", "image_size": 1024, "batch_size": 1024, "strategy": "fine_tuning"},
    {"network": "vgg19", "image_size": 1024},
    {"network": "cnn_small", "image_size": 1024},
    {"network": "efficientnet_lite0", "image_size": 1024, "batch_size": 512,
     "strategy": "from_scratch"},
]  # fmt: skip


def vgg16_request(**fields: Any) -> Any:
    return training_request({"dataset_id": "ds_1", "model": "m", "network": "vgg16"} | fields)


def test_shapes_have_the_default_input_sizes() -> None:
    sizes = {name: shape.size for name, shape in _SHAPES.items()}
    assert sizes == {name: recipe.input_size for name, recipe in NETWORK_DEFAULTS.items()}


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_fits_into_12_gb(preset: str) -> None:
    request = training_request({"dataset_id": "ds_1", "model": "m", "preset": preset})
    check_memory(request, 120, 12 * GB)


@pytest.mark.parametrize("network", _SHAPES)
def test_every_network_fits_into_12_gb_with_its_defaults(network: TrainableNetwork) -> None:
    check_memory(vgg16_request(network=network), 1000, 12 * GB)


@pytest.mark.parametrize("fields", HUGE)
def test_too_large_training_is_refused_with_an_estimate(fields: dict[str, Any]) -> None:
    with pytest.raises(
        ValidationFailed, match=r"about [\d.]+ GB.*OPSIN_TRAINING_MEMORY_MB"
    ) as refused:
        check_memory(vgg16_request(**fields), 10, 16 * GB)
    assert "Send " in refused.value.detail


def test_refusal_names_what_needs_most_memory() -> None:
    for fields, word in ((HUGE[0], "units"), (HUGE[1], "batch_size")):
        with pytest.raises(ValidationFailed, match=word):
            check_memory(vgg16_request(**fields), 10, 16 * GB)


def test_larger_trainings_need_more_memory() -> None:
    minimum = estimate(vgg16_request(strategy="fine_tuning"), 10).total
    for fields in ({"batch_size": 64}, {"image_size": 448}, {"head": {"units": [4096, 4096]}}):
        assert estimate(vgg16_request(strategy="fine_tuning", **fields), 10).total > minimum
    assert estimate(vgg16_request(strategy="fine_tuning"), 900).total > minimum


def test_a_batch_counts_no_more_images_than_there_are() -> None:
    """Twelve images in a batch of 640 took 1.3 GB, and the estimate was 22."""
    request = vgg16_request(network="squeezenet", strategy="fine_tuning", batch_size=640)
    few = estimate(request, 2, {"train": 8, "validation": 2, "test": 2})
    assert 1.26 * GB < few.total < 1.6 * GB
    whole = request.model_copy(update={"unfreeze_from": 0})
    assert estimate(whole, 2).total > 20 * GB
    assert estimate(whole, 2, {"train": 8}).total < 2 * GB
    assert estimate(request, 2, {"train": 640}).activations == estimate(request, 2).activations
    assert estimate(request, 2, {}).activations > 0


@pytest.mark.parametrize(
    ("fields", "images", "measured"),
    [
        ({"strategy": "fine_tuning", "batch_size": 128}, 160, 0.88),
        (
            {"strategy": "fine_tuning", "batch_size": 128, "augmentation": {"rotation": 10}},
            160,
            1.37,
        ),
        ({"strategy": "fine_tuning", "batch_size": 64, "unfreeze_from": 0}, 160, 1.96),
        ({"batch_size": 640}, 12, 0.75),
        ({"network": "vgg16"}, 160, 1.86),
        ({"network": "vgg16", "strategy": "fine_tuning", "batch_size": 16}, 12, 1.94),
        ({"network": "cnn_pets", "strategy": "from_scratch", "batch_size": 64}, 160, 0.87),
    ],
)
def test_estimates_are_above_what_was_measured(
    fields: dict[str, Any], images: int, measured: float
) -> None:
    """In GB, without what other processes share."""
    request = vgg16_request(**{"network": "squeezenet"} | fields)
    counts = {"train": images * 4 // 6, "validation": images // 6, "test": images // 6}
    needed = estimate(request, 2, counts).total / GB
    assert 1.1 * measured < needed < 2.8 * measured


ANSWERS = 2 * 2 * 4
"""Bytes for an image and two classes, while the report is made."""


def test_decoded_images_count_up_to_what_is_kept_of_them() -> None:
    request = vgg16_request(network="squeezenet")
    thousand = estimate(request, 2, {"train": 1000}).images
    assert thousand == 1000 * (227 * 227 * 3 + 15 * 15 * 512 * 4 + ANSWERS)
    assert estimate(request, 2, {"train": 10**6}).images == 10**6 * ANSWERS + (1024 + 512) * 1024**2
    tuned = vgg16_request(network="squeezenet", strategy="fine_tuning")
    assert estimate(tuned, 2, {"train": 1000}).images == 1000 * (227 * 227 * 3 + ANSWERS)


def test_limit_is_the_setting_or_the_memory_of_the_machine() -> None:
    assert memory_limit(100) == 100 * 1024 * 1024
    assert memory_limit(0) > GB

"""The checks of training requests, compared with the real networks where they know their limits."""

from dataclasses import replace
from typing import Any, get_args

import pytest

from contracts.errors import ValidationFailed
from contracts.training.trainings import TrainableNetwork
from models.datasets.dataset import Dataset
from models.training.layer_names import layer_names
from models.training.loop.assembly import build_network
from models.training.validation import (
    MAX_CLASSES,
    MIN_IMAGE_SIDES,
    check_class_count,
    check_class_options,
    check_dataset,
    check_filters_layer,
    check_image_size,
    check_model_name,
    check_unfreeze_from,
    layer_index,
)
from tests.models.training.samples import small_request

NETWORKS = get_args(TrainableNetwork)
MIN_SIDE = 16  # the smallest that a request may ask for


def request_of_size(network: TrainableNetwork, size: Any) -> Any:
    return small_request(network=network, strategy="from_scratch", image_size=size)


def test_names_of_published_networks_are_refused() -> None:
    check_model_name("my-vgg16")
    with pytest.raises(ValidationFailed, match="Choose another name"):
        check_model_name("vgg16")


@pytest.mark.parametrize("network", NETWORKS)
def test_networks_can_be_built_with_the_smallest_images(network: TrainableNetwork) -> None:
    request = request_of_size(network, MIN_IMAGE_SIDES.get(network, MIN_SIDE))
    check_image_size(request)
    assert build_network(request, 3).outputs[0].shape == (None, 3)


@pytest.mark.parametrize("network", MIN_IMAGE_SIDES)
def test_smaller_images_fail_and_are_refused(network: TrainableNetwork) -> None:
    minimum = MIN_IMAGE_SIDES[network]
    with pytest.raises((ValueError, ValidationFailed), match=r"dimension|negative|small|at least"):
        build_network(request_of_size(network, minimum - 1), 3)
    for size in (minimum - 1, (minimum - 1, 64), (64, minimum - 1)):
        with pytest.raises(ValidationFailed, match=f"at least {minimum} x {minimum} pixels"):
            check_image_size(request_of_size(network, size))


def test_default_image_size_is_accepted() -> None:
    check_image_size(request_of_size("vgg16", None))


def test_block_is_the_index_of_its_first_layer() -> None:
    names = layer_names("efficientnet_lite0")
    assert names[layer_index(names, "block6")] == "block6a_expand_conv"
    assert names[layer_index(names, "block6b")] == "block6b_expand_conv"
    assert names[layer_index(names, "block6b_add")] == "block6b_add"


@pytest.mark.parametrize("name", ["image", "conv1", "pool5", "fire8", "fire9_squeeze1x1"])
def test_unfreeze_from_accepts_layers_and_blocks(name: str) -> None:
    check_unfreeze_from(
        small_request(network="squeezenet", strategy="fine_tuning", unfreeze_from=name)
    )


@pytest.mark.parametrize(
    "name", ["fire99", "fire", "fire9_", "fire9_squeeze", "block5", "", "predictions", "f" * 64]
)
def test_unfreeze_from_refuses_unknown_names_and_lists_blocks(name: str) -> None:
    request = small_request(network="squeezenet", strategy="fine_tuning", unfreeze_from=name)
    with pytest.raises(ValidationFailed, match="fire8, fire9") as refused:
        check_unfreeze_from(request)
    assert refused.value.detail.startswith("unfreeze_from")


def test_unfreeze_from_suggests_similar_names() -> None:
    request = small_request(network="vgg16", strategy="fine_tuning", unfreeze_from="blok5_conv1")
    with pytest.raises(ValidationFailed, match="Did you mean block5_conv1"):
        check_unfreeze_from(request)


def test_filters_layer_refuses_unknown_names_and_lists_convolutions() -> None:
    fields = {"network": "cnn_pets", "strategy": "from_scratch", "filters_every": 5}
    check_filters_layer(small_request(**fields))
    check_filters_layer(small_request(**fields, filters_layer="conv4"))
    with pytest.raises(ValidationFailed, match="conv1, conv2, conv3, conv4"):
        check_filters_layer(small_request(**fields, filters_layer="conv5"))
    with pytest.raises(ValueError, match="filters_every"):
        small_request(network="cnn_pets", strategy="from_scratch", filters_layer="conv4")


def test_class_count_is_limited() -> None:
    check_class_count(MAX_CLASSES)
    with pytest.raises(ValidationFailed, match="1,000"):
        check_class_count(MAX_CLASSES + 1)


def test_dataset_must_fit_the_request(dataset: Dataset) -> None:
    with pytest.raises(ValidationFailed, match="no class green"):
        check_dataset(small_request(class_weights={"green": 1.0}), dataset)
    with pytest.raises(ValidationFailed, match="distinguishes 2 classes, not 3"):
        check_class_options(small_request(head={"output": "sigmoid"}), ("blue", "green", "red"))
    only_blue = tuple(e for e in dataset.examples if e.label == "blue" or e.split != "train")
    with pytest.raises(ValidationFailed, match="no training images of red"):
        check_dataset(small_request(), replace(dataset, examples=only_blue))

import json
from typing import Any

import pytest
from pydantic import ValidationError

from contracts.training.trainings import TrainableNetwork, TrainingRequest

MINIMAL = {"dataset_id": "ds_1", "model": "pets", "network": "vgg16"}

EXAMPLE = """
{"dataset_id":"ds_x","model":"pets","network":"vgg16",
 "strategy":"fine_tuning","unfreeze_from":"block5_conv1",
 "image_size":224,"head":{"units":[256],"dropout":0.3},
 "epochs":{"head":10,"finetune":10},"batch_size":32,
 "optimizer":"adam","learning_rate":{"head":0.001,"finetune":0.00001},
 "augmentation":{"rotation":20,"width_shift":0.2,"height_shift":0.2,"shear":0.2,"zoom":0.2,
                 "horizontal_flip":true,"brightness":0,"fill_mode":"nearest"},
 "early_stopping_patience":3,"class_weights":"auto","seed":8,"promote":"if_better"}
"""


def test_example_is_accepted() -> None:
    sent = json.loads(EXAMPLE)
    accepted = TrainingRequest.model_validate_json(EXAMPLE).model_dump(mode="json")
    for name, value in sent.items():
        if isinstance(value, dict):
            assert value.items() <= accepted[name].items()
        else:
            assert accepted[name] == value


@pytest.mark.parametrize("head", [{}, {"head": None}, {"head": {"units": [8]}}])
def test_json_round_trip_changes_nothing(head: dict[str, Any]) -> None:
    first = TrainingRequest.model_validate(MINIMAL | head)
    again = TrainingRequest.model_validate_json(first.model_dump_json())
    assert again == first
    assert (again.head is None) == (not head.get("head"))


@pytest.mark.parametrize(
    ("network", "strategy"), [("squeezenet", "feature_extraction"), ("cnn_mnist", "from_scratch")]
)
def test_default_strategy_depends_on_the_network(network: TrainableNetwork, strategy: str) -> None:
    assert TrainingRequest(**MINIMAL | {"network": network}).strategy == strategy


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        ({"strategy": "fine_tuning", "network": "vgg19"}, "no published weights for vgg19"),
        ({"unfreeze_from": "block5"}, 'needs "strategy": "fine_tuning"'),
        ({"filters_every": 5}, 'needs "strategy": "from_scratch"'),
        ({"class_weights": {"cat": 0}}, "at least one class"),
        ({"learning_rat": 1}, "Extra inputs"),
        ({"augmentation": {"zoom": 1}}, "less than 1"),
        ({"image_size": 8}, "greater than or equal to 16"),
        ({"dataset_id": "../etc"}, "pattern"),
        ({"learning_rate": {"head": 0}}, "greater than 0"),
        ({"network": "resnet"}, "efficientnet_lite0"),
    ],
)
def test_invalid_request_is_refused_with_a_message(sent: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainingRequest(**MINIMAL | sent)


def test_request_with_options_survives_json() -> None:
    request = TrainingRequest(**MINIMAL, image_size=(70, 50), class_weights={"cat": 2.0})
    assert TrainingRequest.model_validate_json(request.model_dump_json()) == request

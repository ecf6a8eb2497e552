"""Which classifier a network gets."""

import pytest

from contracts.training.trainings import TrainingRequest
from models.training.loop.assembly import build_network
from tests.models.training.samples import small_request


def layer_names(request: TrainingRequest) -> list[str]:
    return [layer.name for layer in build_network(request, 3).layers]


@pytest.mark.parametrize(
    ("head", "pooled"), [({}, False), ({"head": {"units": [5], "dropout": 0}}, True)]
)
def test_network_from_scratch_has_its_own_top_by_default(
    head: dict[str, object], pooled: bool
) -> None:
    request = small_request(network="cnn_small", **head)
    stored = TrainingRequest.model_validate_json(request.model_dump_json())
    assert layer_names(stored) == layer_names(request)
    assert ("head_pool" in layer_names(stored)) == pooled
    assert build_network(stored, 3).count_params() == build_network(request, 3).count_params()


def test_sigmoid_head_has_one_unit() -> None:
    request = small_request(network="cnn_small", head={"units": [5], "output": "sigmoid"})
    last = build_network(request, 2).layers[-1]
    assert (last.units, last.activation.__name__, last.name) == (1, "sigmoid", "predictions")


def test_pretrained_base_gets_the_default_head() -> None:
    request = small_request(network="squeezenet", strategy="feature_extraction", image_size=64)
    assert layer_names(request)[-4:] == ["head_pool", "head_fc1", "head_dropout1", "predictions"]

"""Which classifier a network gets, before and after its request has been stored as JSON."""

import pytest

from contracts.training.trainings import TrainingRequest
from models.training.loop.assembly import build_network
from tests.models.training.material import asked


def layers_of(request: TrainingRequest) -> list[str]:
    return [layer.name for layer in build_network(request, 3).layers]


@pytest.mark.parametrize(
    ("head", "pooled"), [({}, False), ({"head": {"units": [5], "dropout": 0}}, True)]
)
def test_a_network_from_scratch_keeps_its_own_top_unless_another_is_asked_for(
    head: dict[str, object], pooled: bool
) -> None:
    request = asked(network="cnn_small", **head)
    stored = TrainingRequest.model_validate_json(request.model_dump_json())
    assert layers_of(stored) == layers_of(request)
    assert ("head_pool" in layers_of(stored)) == pooled
    assert build_network(stored, 3).count_params() == build_network(request, 3).count_params()


def test_two_classes_may_end_in_one_sigmoid() -> None:
    request = asked(network="cnn_small", head={"units": [5], "output": "sigmoid"})
    last = build_network(request, 2).layers[-1]
    assert (last.units, last.activation.__name__, last.name) == (1, "sigmoid", "predictions")


def test_on_published_weights_the_default_head_is_put() -> None:
    request = asked(network="squeezenet", strategy="feature_extraction", image_size=64)
    assert layers_of(request)[-4:] == ["head_pool", "head_fc1", "head_dropout1", "predictions"]

"""How small pictures may be, told without a network and compared with the real ones."""

from typing import Any, get_args

import pytest

from contracts.errors import ValidationFailed
from contracts.training.trainings import TrainableNetwork
from models.training.loop.assembly import build_network
from models.training.validation import SMALLEST, check_picture_size
from tests.models.training.material import asked

NETWORKS = get_args(TrainableNetwork)
LEAST = 16  # of all that may be asked for


def request(network: TrainableNetwork, size: Any) -> Any:
    return asked(network=network, strategy="from_scratch", image_size=size)


@pytest.mark.parametrize("network", NETWORKS)
def test_the_smallest_can_be_built(network: TrainableNetwork) -> None:
    smallest = request(network, SMALLEST.get(network, LEAST))
    check_picture_size(smallest)
    assert build_network(smallest, 3).outputs[0].shape == (None, 3)


@pytest.mark.parametrize("network", SMALLEST)
def test_a_smaller_one_cannot_and_is_refused(network: TrainableNetwork) -> None:
    least = SMALLEST[network]
    with pytest.raises(ValueError, match=r"dimension|negative|small"):
        build_network(request(network, least - 1), 3)
    for size in (least - 1, (least - 1, 64), (64, least - 1)):
        with pytest.raises(ValidationFailed, match=f"at least {least} x {least} pixels"):
            check_picture_size(request(network, size))


def test_left_out_it_is_the_networks_own() -> None:
    check_picture_size(request("vgg16", None))

import keras
import pytest
from keras import layers

from models.explain.filters import any_size, smallest_side
from models.explain.layer_graph import LayerGraph
from models.networks.squeezenet import squeezenet
from models.training.validation import MIN_IMAGE_SIDES
from tests.models import keras_warnings

pytestmark = keras_warnings.ignored


@pytest.mark.parametrize(
    ("layer", "least"), [("conv1", 3), ("pool1", 7), ("pool3", 15), ("fire9_concat", 31)]
)
def test_squeezenets(layer: str, least: int) -> None:
    graph = LayerGraph.of(squeezenet(classes=2))
    part = any_size(graph.model_to(graph.nodes[layer].output))
    assert smallest_side(part, 512) == least
    assert smallest_side(part, least) == least
    assert smallest_side(part, least - 1) is None
    assert MIN_IMAGE_SIDES["squeezenet"] == 31


def test_a_branch_with_nothing_left_counts_though_keras_says_nothing() -> None:
    image = keras.Input((None, None, 3))
    cropped = layers.Cropping2D(4)(image)
    part = keras.Model(image, layers.Resizing(8, 8)(cropped))
    assert smallest_side(part, 64) == 9

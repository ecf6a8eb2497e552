import pytest

from contracts.errors import LayerNotFound
from models.create.layer_names import required_layer


@pytest.mark.parametrize(
    ("sent", "layer"),
    [
        ("conv4_2", "block4_conv2"),
        ("relu1_1", "block1_conv1"),
        ("pool3", "block3_pool"),
        ("block5_conv3", "block5_conv3"),
    ],
)
def test_papers_call_them_otherwise(sent: str, layer: str) -> None:
    assert required_layer("vgg16", sent) == layer


@pytest.mark.parametrize("sent", ["conv4_4", "conv6_1", "pool9", "fire2_concat", ""])
def test_unknown_layer_is_refused(sent: str) -> None:
    with pytest.raises(LayerNotFound, match="block"):
        required_layer("vgg16", sent)

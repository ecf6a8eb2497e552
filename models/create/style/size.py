"""The size of a style transfer's result; known without the networks."""

from contracts.create.requests import STYLE_SIDE, StyleNetwork, StyleTransferRequest
from models.create.images import enlarged, scaled_size
from models.create.style.weights import MINIMUM_SIDES
from models.images.resize import Size, within


def result_size(request: StyleTransferRequest, content: Size, network: StyleNetwork | None) -> Size:
    """Width and height of the result.

    Args:
        content: Width and height of the content.
        network: None for `method=fast`.

    Raises:
        ValidationFailed: The content is too narrow for the network.
    """
    if request.size is not None:
        return scaled_size(content, request.size)
    if network is None:
        return content
    return enlarged(within(content, STYLE_SIDE), MINIMUM_SIDES[network])

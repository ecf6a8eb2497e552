from typing import Any

import numpy as np
import pytest

from contracts.queue.explain_messages import ActivationsReply, ActivationsRequest, Order
from models.explain.answer import ExplainReplyBuilder


class Fixed:
    """An explainer of one picture's maps that are known."""

    def activations(self, images: Any, layer: str, between: Any) -> np.ndarray:
        means = np.array([1, -9, 3, 0, -0.5], np.float32)
        swing = np.array([[8, -8], [-8, 8]], np.float32)
        return (means + swing[..., np.newaxis])[np.newaxis]


@pytest.mark.parametrize(
    ("order", "channels", "expected"),
    [("strongest", 5, [2, 0, 3, 4, 1]), ("strongest", 2, [2, 0]), ("index", 3, [0, 1, 2])],
)
def test_channels_are_ordered_by_mean_activation(
    order: Order, channels: int, expected: list[int]
) -> None:
    builder = ExplainReplyBuilder(Fixed(), "conv", lambda: None)  # type: ignore[arg-type]
    request = ActivationsRequest(channels=channels, order=order)
    ((vector, note),) = builder.build(request, np.zeros((1, 2, 2, 3), np.uint8), np.array([0]))
    reply = ActivationsReply.model_validate_json(note)
    assert [channel.index for channel in reply.channels] == expected
    means = vector.reshape(len(expected), -1).mean(axis=1)
    np.testing.assert_allclose([channel.mean for channel in reply.channels], means, atol=1e-6)

"""The compiled sum of losses, its gradient and its targets."""

import numpy as np
import pytest

from contracts.errors import LayerNotFound
from models.create.features import FeatureNetwork
from models.create.style.objective import LossWeights
from tests.models import keras_warnings
from tests.models.create.image_work import photo
from tests.models.create.networks import small_base, small_objective

pytestmark = keras_warnings.ignored

CONTENT, STYLE, OTHER = (np.asarray(photo(24, 18, seed), np.float32) for seed in (1, 2, 3))


def test_gradient_is_the_slope_of_the_loss() -> None:
    objective = small_objective()
    objective.set_targets(CONTENT, [STYLE], [1.0])
    image = CONTENT + np.random.default_rng(4).normal(0, 9, CONTENT.shape).astype(np.float32)
    _, gradient = objective.evaluate(image)
    direction = gradient / np.linalg.norm(gradient)
    step = 0.5
    higher, lower = (objective.evaluate(image + s * direction)[0].total for s in (step, -step))
    assert (higher - lower) / (2 * step) == pytest.approx(np.linalg.norm(gradient), rel=1e-3)


def test_losses_add_up_and_content_has_none_at_the_content() -> None:
    objective = small_objective()
    objective.set_targets(CONTENT, [STYLE], [1.0])
    losses, _ = objective.evaluate(CONTENT)
    assert losses.content == 0
    assert losses.style > 0
    assert losses.total == pytest.approx(
        losses.content + losses.style + losses.total_variation, rel=1e-5
    )


def test_style_has_no_loss_at_the_style() -> None:
    objective = small_objective()
    objective.set_targets(CONTENT, [CONTENT], [1.0])
    assert objective.evaluate(CONTENT)[0].style == pytest.approx(0, abs=1e-6)


def test_gradient_of_several_styles_is_their_weighted_mean() -> None:
    objective = small_objective(LossWeights(0, 1, 0))
    gradients = []
    for styles, shares in (([STYLE], [1.0]), ([OTHER], [1.0]), ([STYLE, OTHER], [0.3, 0.7])):
        objective.set_targets(CONTENT, styles, shares)
        gradients.append(objective.evaluate(CONTENT)[1])
    expected = 0.3 * gradients[0] + 0.7 * gradients[1]
    np.testing.assert_allclose(gradients[2], expected, atol=1e-4 * np.abs(expected).max())


def test_average_pooling_replaces_the_maximum() -> None:
    image = CONTENT[np.newaxis]
    average, maximum = (
        FeatureNetwork(small_base(), ["second"], pooling, "float32")(image)[0].numpy()
        for pooling in ("average", "max")
    )
    assert average.shape == maximum.shape == (1, 9, 12, 12)
    assert not np.allclose(average, maximum)


def test_unknown_layer_is_named_with_similar_ones() -> None:
    with pytest.raises(LayerNotFound, match="Did you mean second"):
        FeatureNetwork(small_base(), ["secnd"], "max", "float32")

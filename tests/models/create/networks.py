"""A small network for style transfers, with fixed random weights."""

import keras
from keras import layers

from models.create.features import FeatureNetwork
from models.create.style.objective import LossWeights, Objective

STYLE_LAYERS = ("first", "second")


def small_base() -> keras.Model:
    keras.utils.set_random_seed(3)
    image = keras.Input((None, None, 3))
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="first")(image)
    x = layers.MaxPooling2D(2, name="pool")(x)
    x = layers.Conv2D(12, 3, padding="same", activation="relu", name="second")(x)
    return keras.Model(image, x, name="small")


def small_objective(weights: LossWeights | None = None) -> Objective:
    network = FeatureNetwork(small_base(), ["second", *STYLE_LAYERS], "average", "float32")
    return Objective(network, 1, weights or LossWeights(1.0, 0.1, 0.1))

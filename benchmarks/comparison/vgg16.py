"""Publishes a VGG16 with classifier to a store, to measure its speed.

Its 554 MB of published weights are often not available, and its speed does not depend on them. The
convolutions get published weights if they are available, the classifier random ones.

    python -m benchmarks.comparison.vgg16 NAME STORE SAMPLES HOME WEIGHTS
"""

import sys
from pathlib import Path

import keras

from models.catalog import CATALOG
from models.export.check_images import check_images
from models.export.saved_model import export_version
from models.export.signatures import Blueprint
from models.networks.architecture import build
from models.networks.loading import load_weights
from models.store.labels import imagenet_labels
from models.store.store import Store
from models.weights.catalog import Weights, WeightsMissing


def main() -> None:
    """Build, export and promote the network."""
    name, store_home, samples, home, weights = sys.argv[1:6]
    network = CATALOG["vgg16"]
    keras.utils.set_random_seed(8)
    model = build(network, include_top=True)
    _load_convolutions(model, Weights(Path(home), Path(weights), offline=True))
    model.trainable = False
    store = Store(Path(store_home))
    with store.staging() as folder:
        draft = export_version(
            model,
            Blueprint.of(network),
            folder,
            images=check_images(Path(samples), network),
            labels=imagenet_labels(),
        )
        store.promote(name, store.publish(name, folder, draft))


def _load_convolutions(model: keras.Model, weights: Weights) -> None:
    """Load the published weights of the convolutions, if they are available."""
    network = CATALOG["vgg16"]
    try:
        file = weights.find(network.base_weights or network.weights)
    except WeightsMissing:
        return
    base = build(network, include_top=False)
    load_weights(base, network.name, file.path, file.format)
    for layer in base.layers:
        if layer.weights:
            model.get_layer(layer.name).set_weights(layer.get_weights())


if __name__ == "__main__":
    main()

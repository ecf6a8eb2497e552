"""The published networks as versions in the store, so that all that is served comes from there."""

import keras

from contracts.inference.manifest import Provenance
from contracts.queue.messages import Pixels
from models.catalog import Network
from models.export.saved_model import export_version
from models.export.signatures import Blueprint
from models.export.zoo_imports import Origin, imported, may_be_champion, origin_of
from models.networks.architecture import build
from models.networks.loading import load_weights
from models.store.labels import imagenet_labels
from models.store.store import Store
from models.weights.catalog import Weights


def import_zoo(network: Network, weights: Weights, store: Store, pictures: Pixels) -> int:
    """Publish a catalog row with its published weights, unless these were imported before.

    The first import is version 1 and champion. Other weights (the whole network where only its
    base could be had before) become the next version, and champion if an import was that.

    Args:
        network: The row; also the name of the model.
        weights: Where weights are looked for. Nothing is downloaded.
        store: Where to publish.
        pictures: Real ones of the network's input size to check the export on, uint8.

    Returns:
        The version that holds these weights.

    Raises:
        WeightsMissing: Neither the whole network nor its base is on this machine.
        ParityError: The export does not answer as the network does.
    """
    origin = origin_of(network, weights)
    with store.alone(f"import-{network.name}"):
        version = imported(store, network.name, origin)
        if version is None:
            model = build(network, include_top=origin.is_whole)
            load_weights(model, network.name, origin.file.path, origin.file.format)
            version = _publish(network, model, origin, store, pictures)
            if may_be_champion(store, network.name):
                store.promote(network.name, version)
    return version


def _publish(
    network: Network, model: keras.Model, origin: Origin, store: Store, pictures: Pixels
) -> int:
    model.trainable = False
    with store.staging() as folder:
        draft = export_version(
            model,
            Blueprint.of(network),
            folder,
            pictures=pictures,
            labels=imagenet_labels() if origin.is_whole and network.classes else (),
            provenance=Provenance(weights=origin.record),
            metrics={"published_top1": network.top1} if origin.is_whole and network.top1 else {},
        )
        return store.publish(network.name, folder, draft)

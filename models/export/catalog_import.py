"""Imports published networks into the store, so that everything served comes from there."""

from contextlib import suppress

import keras

from contracts.inference.manifest import CHAMPION, Provenance
from contracts.queue.messages import Pixels
from models.catalog import Network
from models.export.catalog_weights import (
    CatalogWeights,
    awaits_promotion,
    find_catalog_weights,
    find_imported_version,
    may_replace,
)
from models.export.saved_model import export_version
from models.export.signatures import Blueprint
from models.networks.architecture import build
from models.networks.loading import load_weights
from models.store.labels import imagenet_labels
from models.store.store import AliasMovedError, Store, unmoved
from models.weights.catalog import Weights


def import_network(network: Network, weights: Weights, store: Store, images: Pixels) -> int:
    """Publish a catalog network with its published weights, unless they are in the store already.

    The first import is version 1 and becomes champion. Other weights (those of the whole network,
    if only its base was available before) become the next version, and champion if the current one
    was imported too.

    Args:
        weights: Nothing is downloaded.
        images: Real images of the network's input size to check the export with, uint8.

    Returns:
        The version that has these weights.

    Raises:
        WeightsMissing: Neither the whole network nor its base is on this machine.
        ParityError: The exported files give different outputs than the network.
    """
    origin = find_catalog_weights(network, weights)
    with store.lock(f"import-{network.name}"):
        version = find_imported_version(store, network.name, origin)
        if version is None:
            model = build(network, include_top=origin.is_whole)
            load_weights(model, network.name, origin.file.path, origin.file.format)
            version = _publish(network, model, origin, store, images)
        elif not awaits_promotion(store, network.name):
            return version
        champion = store.aliases(network.name).get(CHAMPION)
        if may_replace(store, network.name, champion):
            with suppress(AliasMovedError):
                store.promote(network.name, version, check=unmoved(champion))
    return version


def _publish(
    network: Network, model: keras.Model, origin: CatalogWeights, store: Store, images: Pixels
) -> int:
    model.trainable = False
    with store.staging() as folder:
        draft = export_version(
            model,
            Blueprint.of(network),
            folder,
            images=images,
            labels=imagenet_labels() if origin.is_whole and network.classes else (),
            provenance=Provenance(weights=origin.record),
            metrics={"published_top1": network.top1} if origin.is_whole and network.top1 else {},
        )
        return store.publish(network.name, folder, draft)

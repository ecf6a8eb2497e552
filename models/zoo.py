"""The published networks as versions in the store, so that all that is served comes from there."""

import keras

from contracts.manifest import CHAMPION, Provenance, WeightsRecord
from contracts.messages import Pixels
from models.catalog import Network
from models.exporting import export_version
from models.labels import imagenet_labels
from models.manifest import sha256_of
from models.networks.architecture import build
from models.networks.loading import load_weights
from models.signatures import Blueprint
from models.store import Store
from models.weights import WeightFile, Weights, WeightsMissing


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
    name, file, whole = _find(network, weights)
    record = WeightsRecord(name=name, sha256=sha256_of(file.path), licence=network.licence)
    with store.alone(f"import-{network.name}"):
        version = _imported(store, network.name, record)
        if version is None:
            model = build(network, include_top=whole)
            load_weights(model, network.name, file.path, file.format)
            version = _publish(network, model, record, store, pictures)
            if _may_be_champion(store, network.name):
                store.promote(network.name, version)
    return version


def _find(network: Network, weights: Weights) -> tuple[str, WeightFile, bool]:
    """The name of the weights, their file, and whether they are the whole network's."""
    try:
        return network.weights, weights.find(network.weights), True
    except WeightsMissing:
        if network.base_weights is None:
            raise
        return network.base_weights, weights.find(network.base_weights), False


def _imported(store: Store, model: str, record: WeightsRecord) -> int | None:
    for version in reversed(store.versions(model)):
        if store.manifest(model, version).provenance.weights == record:
            return version
    return None


def _may_be_champion(store: Store, model: str) -> bool:
    """Whether no champion stands, or one that was not trained here."""
    champion = store.aliases(model).get(CHAMPION)
    return champion is None or store.manifest(model, champion).provenance.job_id is None


def _publish(
    network: Network, model: keras.Model, record: WeightsRecord, store: Store, pictures: Pixels
) -> int:
    model.trainable = False
    whole = record.name == network.weights
    with store.staging() as folder:
        draft = export_version(
            model,
            Blueprint.of(network),
            folder,
            pictures=pictures,
            labels=imagenet_labels() if whole else (),
            provenance=Provenance(weights=record),
            metrics={"published_top1": network.top1} if whole else {},
        )
        return store.publish(network.name, folder, draft)

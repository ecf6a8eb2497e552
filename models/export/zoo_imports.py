"""Which of the published networks are in the store already; known without loading Keras."""

from dataclasses import dataclass

from contracts.errors import VersionNotFound
from contracts.inference.manifest import CHAMPION, WeightsRecord
from models.catalog import Network
from models.store.manifest import sha256_of
from models.store.store import Store
from models.weights.catalog import WeightFile, Weights, WeightsMissing


@dataclass(frozen=True, slots=True)
class Origin:
    """The published weights that a version of a catalog row would begin with.

    Attributes:
        file: Where they are.
        record: What the version's manifest says of them.
        is_whole: Whether they are the whole network's, or its base's alone.
    """

    file: WeightFile
    record: WeightsRecord
    is_whole: bool


def origin_of(network: Network, weights: Weights) -> Origin:
    """The best weights of a network that are on this machine.

    Raises:
        WeightsMissing: Neither the whole network nor its base is here.
    """
    name, whole = network.weights, True
    try:
        file = weights.find(name)
    except WeightsMissing as missing:
        if network.base_weights is None:
            raise
        name, whole = network.base_weights, False
        try:
            file = weights.find(name)
        except WeightsMissing:
            raise missing from None
    record = WeightsRecord(name=name, sha256=sha256_of(file.path), licence=network.licence)
    return Origin(file, record, whole)


def imported(store: Store, model: str, origin: Origin) -> int | None:
    """The newest version that began with these weights and was not trained further."""
    for version in reversed(store.versions(model)):
        provenance = store.manifest(model, version).provenance
        if provenance.weights == origin.record and provenance.job_id is None:
            return version
    return None


def may_be_champion(store: Store, model: str) -> bool:
    """Whether no sound champion stands, or one that was not trained here."""
    champion = store.aliases(model).get(CHAMPION)
    if champion is None:
        return True
    try:
        return store.manifest(model, champion).provenance.job_id is None
    except VersionNotFound:
        return True  # it was found damaged

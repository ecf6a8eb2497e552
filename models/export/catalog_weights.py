"""Finds published weights and the versions imported from them, and starts imports.

This module does not import Keras.
"""

import subprocess
from dataclasses import dataclass

from contracts.errors import VersionNotFound
from contracts.inference.manifest import WeightsRecord
from contracts.settings import Settings
from models.catalog import Network
from models.processes import child_environment, module_command
from models.store.aliases import DamagedAliasesError
from models.store.manifest import sha256_of
from models.store.store import Store
from models.weights.catalog import WeightFile, Weights, WeightsMissing

IMPORT_SECONDS = 900.0
"""How long the import of one network may take."""


@dataclass(frozen=True, slots=True)
class CatalogWeights:
    """The published weights from which a version of a catalog network would be made.

    Attributes:
        record: The entry for the manifest of the version.
        is_whole: Whether they are for the whole network or only for its base.
    """

    file: WeightFile
    record: WeightsRecord
    is_whole: bool


def find_catalog_weights(network: Network, weights: Weights) -> CatalogWeights:
    """Find the best weights of a network on this machine.

    Raises:
        WeightsMissing: Neither those of the whole network nor those of its base are here.
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
    return CatalogWeights(file, record, whole)


def find_imported_version(store: Store, model: str, origin: CatalogWeights) -> int | None:
    """The newest version with these weights that was not trained further."""
    for version in reversed(store.versions(model)):
        provenance = store.manifest(model, version).provenance
        if provenance.weights == origin.record and provenance.job_id is None:
            return version
    return None


def awaits_promotion(store: Store, model: str) -> bool:
    """Whether an import ended between publishing the first version and making it champion."""
    try:
        has_champion = store.aliases(model) or store.former_champions(model)
    except DamagedAliasesError:
        return False
    return not has_champion and len(store.versions(model)) == 1


def may_replace(store: Store, model: str, champion: int | None) -> bool:
    """Whether there is no intact champion, or one that was not trained here."""
    if champion is None:
        return True
    try:
        return store.manifest(model, champion).provenance.job_id is None
    except VersionNotFound:
        return True  # it is damaged


def start_import(settings: Settings, model: str) -> subprocess.Popen[bytes]:
    """Start the child process that imports a catalog network (`models.export.import_child`)."""
    folders = [settings.store_home, settings.home / "samples", settings.weights_home]
    if settings.weights_dir is not None:
        folders.append(settings.weights_dir)
    return subprocess.Popen(  # noqa: S603  our own module, paths from the settings
        module_command("models.export.import_child", model, *map(str, folders)),
        # The worker uses the GPU, and the check does not need one.
        env=child_environment({"CUDA_VISIBLE_DEVICES": "-1", "KERAS_BACKEND": "tensorflow"}),
        stdin=subprocess.DEVNULL,
    )

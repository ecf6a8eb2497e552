"""Imports the configured networks of the catalog into the store, once, if it finds the weights."""

from threading import Event

import structlog

from contracts.queue.heartbeat import HeldModel
from contracts.settings import Settings
from models.catalog import CATALOG, Network
from models.export.catalog_weights import (
    IMPORT_SECONDS,
    awaits_promotion,
    find_catalog_weights,
    find_imported_version,
    start_import,
)
from models.store.store import Store
from models.weights.catalog import Weights, WeightsMissing
from workers.inference.model_manager import ModelManager

log = structlog.get_logger()

_POLL_SECONDS = 0.1


class CatalogImporter:
    """Imports one network after the other, each in a child process.

    Args:
        settings: Which networks, and where everything is.
        store: Where to.
        manager: Reports the state of each network and loads it.
        stopping: Ends an import in progress.
    """

    def __init__(
        self, settings: Settings, store: Store, manager: ModelManager, stopping: Event
    ) -> None:
        self._settings = settings
        self._store = store
        self._manager = manager
        self._stopping = stopping
        self._weights = Weights.of(settings)

    def run(self) -> None:
        """Import what is missing, and load each network after its import."""
        for model in dict.fromkeys(self._settings.models):
            if self._stopping.is_set():
                return
            self._require_imported(model)
            self._manager.reconcile(self._stopping)

    def _require_imported(self, model: str) -> None:
        network = CATALOG.get(model)
        if network is None:
            self._report(model, f"There is no version of '{model}' in the store yet.")
            return
        try:
            for name in network.needs:
                self._weights.find(name)
            origin = find_catalog_weights(network, self._weights)
        except WeightsMissing as missing:
            log.warning("weights_missing", model=model, reason=missing.detail)
            self._report(model, missing.detail)
            return
        partial = None if origin.is_whole else self._partial_reason(network)
        version = find_imported_version(self._store, model, origin)
        if version is None or awaits_promotion(self._store, model):
            reason = "Its weights are being imported into the store, once."
            loading = HeldModel(name=model, state="loading", reason=reason)
            self._manager.set_missing(model, loading, partial=partial)
            if not self._import(model):
                self._report(model, "Its weights could not be imported; the worker's log says why.")
                return
        self._report(model, "No alias points to any of its versions; promote one.", partial)

    def _report(self, model: str, reason: str, partial: str | None = None) -> None:
        state = HeldModel(name=model, state="unavailable", reason=reason)
        self._manager.set_missing(model, state, partial=partial)

    def _partial_reason(self, network: Network) -> str | None:
        """Which weights are missing of a network of which only the base is here."""
        try:
            self._weights.find(network.weights)
        except WeightsMissing as missing:
            return missing.detail
        return None

    def _import(self, model: str) -> bool:
        """Run the child process to its end; whether it succeeded."""
        child = start_import(self._settings, model)
        log.info("import_began", model=model)
        waited = 0.0
        while child.poll() is None:
            if self._stopping.wait(_POLL_SECONDS) or waited > IMPORT_SECONDS:
                child.kill()
                child.wait()
                return False
            waited += _POLL_SECONDS
        log.info("import_ended", model=model, exit_code=child.returncode)
        return child.returncode == 0

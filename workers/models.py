"""Loading a worker's networks, one after the other, and telling how each fares."""

import time

import structlog

from contracts.errors import ModelNotFound
from contracts.presence import HeldModel
from contracts.settings import Settings
from models.catalog import CATALOG, network_of
from models.predictor import devices, load_predictor
from models.weights import Weights, WeightsMissing
from workers.drain import Predictor
from workers.presence import Presence

log = structlog.get_logger()


def load_models(
    settings: Settings, presence: Presence
) -> tuple[dict[str, HeldModel], dict[str, Predictor]]:
    """Load and warm every network of `OPSIN_MODELS`; one that fails does not stop the others.

    Returns:
        What to tell of each network once the worker takes work (until then they are told to be
        loading, or their requests would wait for a worker that does not listen yet), and those
        that can be used.
    """
    names = list(dict.fromkeys(settings.models))
    presence.tell(*(HeldModel(name=name, state="loading") for name in names))
    weights = Weights.of(settings)
    loaded = {name: _load(name, weights, settings) for name in names}
    presence.tell_devices(devices())
    held = {name: one for name, (one, _) in loaded.items()}
    return held, {name: predictor for name, (_, predictor) in loaded.items() if predictor}


def _load(name: str, weights: Weights, settings: Settings) -> tuple[HeldModel, Predictor | None]:
    began = time.monotonic()
    try:
        predictor = load_predictor(
            network_of(name),
            weights,
            threads=settings.worker_threads,
            max_batch_size=settings.max_batch_size,
        )
        predictor.warm()
    except (WeightsMissing, ModelNotFound) as error:
        log.warning("model_unavailable", model=name, reason=str(error))
        return HeldModel(name=name, state="unavailable", reason=str(error)), None
    except Exception:
        log.exception("model_failed", model=name)
        reason = "It failed to load; the worker's log says why."
        return HeldModel(name=name, state="unavailable", reason=reason), None
    log.info("model_loaded", model=name, seconds=round(time.monotonic() - began, 2))
    whole = "classify" in predictor.operations
    held = HeldModel(
        name=name,
        version=predictor.version,
        state="ready" if whole else "unavailable",
        reason=predictor.partial_reason,
        operations=predictor.operations,
        classes=CATALOG[name].classes,
        runtime=predictor.runtime,
        batch_sizes=predictor.batch_sizes,
    )
    return held, predictor

"""Loading a worker's networks, one after the other, and telling how each fares."""

import time

import structlog

from contracts.errors import ModelNotFound
from contracts.presence import HeldModel
from contracts.settings import Settings
from models.catalog import CATALOG, network_of
from models.predictor import load_predictor
from models.weights import Weights, WeightsMissing
from workers.drain import Predictor
from workers.presence import Presence

log = structlog.get_logger()


def load_models(settings: Settings, presence: Presence) -> dict[str, Predictor]:
    """Load and warm every network of `OPSIN_MODELS`; one that fails does not stop the others."""
    for name in settings.models:
        presence.tell(HeldModel(name=name, state="loading"))
    weights = Weights(settings.weights_home, settings.weights_dir, settings.offline)
    predictors: dict[str, Predictor] = {}
    for name in settings.models:
        held, predictor = _load(name, weights, settings)
        if predictor:
            predictors[name] = predictor
        presence.tell(held)
    return predictors


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

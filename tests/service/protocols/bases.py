"""A loaded base without a head, which embeds and has no classes."""

from dataclasses import replace
from typing import Any

from contracts.errors import ModelNotReady
from contracts.inference.inference import Operation
from models.store.snapshot import ServedVersion
from tests.service.parts import SERVED, FakeWorkers

BASE = "vgg16"


def serve_base(workers: FakeWorkers) -> None:
    """Make `vgg16` a base of SqueezeNet's size that the worker has loaded."""
    manifest = SERVED.manifest.model_copy(
        update={"model": BASE, "endpoints": ("features",), "classes": None}
    )
    base = replace(SERVED, manifest=manifest, labels=())
    others, choose = workers.models(), workers.choose
    info = next(one for one in others if one.name == "squeezenet")
    update = {"name": BASE, "classes": None, "operations": ("embed",)}
    models = [one for one in others if one.name != BASE] + [info.model_copy(update=update)]

    def choose_base(
        model: str | None, version: str | None, operation: Operation
    ) -> tuple[ServedVersion, int]:
        if model != BASE:
            return choose(model, version, operation)
        if operation != "embed":
            raise ModelNotReady(f"'{BASE}' is not ready for {operation}.", retry_after=5)
        return base, 1

    changed: Any = workers
    changed.models = lambda: models
    changed.choose = choose_base

"""Which network a dream uses: a version in the store, or a published base that nobody serves.

A dream needs no classifier, so a network of the catalog whose base alone is here will do.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from contracts.create.requests import DreamRequest
from contracts.errors import ModelNotFound, ValidationFailed, VersionNotFound
from contracts.settings import Settings
from models.catalog import CATALOG
from models.store.store import Store
from models.weights.catalog import Weights, WeightsMissing

PREFERRED = "vgg16"
"""Its dreams are those that people know."""


@dataclass(frozen=True, slots=True)
class DreamSource:
    """A resolved model.

    Attributes:
        model: Its name.
        version: Its number; None for a published base outside the store.
    """

    model: str
    version: int | None


def resolve_source(
    model: str | None,
    version: str | None,
    *,
    store: Store,
    weights: Weights,
    models: Sequence[str],
) -> DreamSource:
    """The version or the published base that a request means.

    Args:
        model: As sent; None for `PREFERRED`, if it is here, otherwise the first of `models`.
        version: As sent.
        models: The names that are served, in order.

    Raises:
        ModelNotFound: There is no such model.
        VersionNotFound: It has no such version.
        WeightsMissing: It is a published network whose weights are not here.
    """
    if model is not None:
        return _resolved(model, version, store, weights)
    for name in (PREFERRED, *models):
        try:
            return _resolved(name, version, store, weights)
        except (ModelNotFound, VersionNotFound, WeightsMissing):
            continue
    return _resolved(models[0] if models else PREFERRED, version, store, weights)


def check_class(source: DreamSource, class_index: int | None, classes: int) -> None:
    """Check that a class can be dreamt of.

    Args:
        classes: How many the version has.

    Raises:
        ValidationFailed: It cannot.
    """
    if class_index is None:
        return
    if source.version is None:
        raise ValidationFailed(
            f"class_index: only the base of '{source.model}' is here, which has no classes. Serve "
            "the model (OPSIN_MODELS), name another one, or leave class_index out."
        )
    if class_index >= classes:
        raise ValidationFailed(
            f"class_index: {source.model} has {classes} classes, numbered from 0."
        )


def input_pixels(request: DreamRequest, settings: Settings) -> int:
    """Pixels of the network's own input if a class is dreamt of, otherwise 0.

    The dense layers of a class may take maps of one size only, and then every tile is that large.

    Args:
        request: Its model and version are resolved.

    Raises:
        VersionNotFound: There is no such version.
    """
    if request.class_index is None or request.model is None or request.version is None:
        return 0
    manifest = Store(settings.store_home).manifest(request.model, int(request.version))
    height, width = manifest.input_size
    return height * width


def _resolved(model: str, version: str | None, store: Store, weights: Weights) -> DreamSource:
    try:
        return DreamSource(model, store.resolve(model, version))
    except (ModelNotFound, VersionNotFound):
        network = CATALOG.get(model)
        if version is not None or network is None or network.classes is None:
            raise
        weights.find(network.base_weights or network.weights)
        return DreamSource(model, None)

"""Checks a layer's name before the image is read.

A worker checks it too, but only after the upload, the decoding and a wait in the queue.
"""

import asyncio
from collections import OrderedDict

from contracts.errors import VersionNotFound
from contracts.inference.explanation import LayerInfo
from models.explain.layers import explainable_layer, read_layers
from models.store.store import Store

_MAX_VERSIONS = 64  # a list of layers is some ten kilobytes


class LayerCheck:
    """The layers of recently requested versions, which never change. Belongs to one event loop."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: OrderedDict[tuple[str, int], tuple[LayerInfo, ...]] = OrderedDict()

    async def require(self, model: str, version: int, layer: str) -> LayerInfo | None:
        """The layer; None for a version without a list of layers, which only the worker can check.

        Raises:
            LayerNotFound: There is no such layer.
            ValidationFailed: It has no maps.
        """
        key = (model, version)
        layers = self._known.get(key)
        if layers is None:
            layers = await asyncio.to_thread(self._read, model, version)
            if layers is None:
                return None
            self._known[key] = layers
            if len(self._known) > _MAX_VERSIONS:
                self._known.popitem(last=False)
        return explainable_layer(layers, layer)

    def _read(self, model: str, version: int) -> tuple[LayerInfo, ...] | None:
        try:
            return read_layers(self._store.path(model, version))
        except (OSError, ValueError, VersionNotFound):
            return None

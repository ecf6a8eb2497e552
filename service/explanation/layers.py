"""Whether a layer can be asked for, told before the image is even read.

A worker would say so too, but only after the upload, the decoding and a wait in the queue.
"""

import asyncio
from collections import OrderedDict

from contracts.errors import VersionNotFound
from contracts.inference.explanation import LayerInfo
from models.explain.layers import explainable_layer, read_layers
from models.store.store import Store

_MOST = 64  # versions; a list of layers is some ten kilobytes


class LayerCheck:
    """Knows the layers of versions asked for lately; they never change. Of one event loop.

    Args:
        store: Where the versions are.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: OrderedDict[tuple[str, int], tuple[LayerInfo, ...]] = OrderedDict()

    async def require(self, model: str, version: int, layer: str) -> LayerInfo | None:
        """The layer, or None where only the worker can tell: for a version without a list.

        Raises:
            LayerNotFound: There is no such layer.
            ValidationFailed: It has no maps to look at.
        """
        key = (model, version)
        layers = self._known.get(key)
        if layers is None:
            layers = await asyncio.to_thread(self._read, model, version)
            if layers is None:
                return None
            self._known[key] = layers
            if len(self._known) > _MOST:
                self._known.popitem(last=False)
        return explainable_layer(layers, layer)

    def _read(self, model: str, version: int) -> tuple[LayerInfo, ...] | None:
        try:
            return read_layers(self._store.path(model, version))
        except (OSError, ValueError, VersionNotFound):
            return None

"""Explanations in this very process, from the store, for machines where no server runs."""

from typing import TYPE_CHECKING

import numpy as np
from pydantic import TypeAdapter

from cli.commands.explain import Wanted
from cli.output import CommandError
from contracts.errors import OpsinError, ValidationFailed
from contracts.queue.explain_messages import PIXEL_METHODS, MapAsk, MapNote
from contracts.queue.messages import TOP_CLASS
from contracts.settings import Settings
from models.explain.results import layer_of
from models.images.decode import decode
from models.images.resize import seen_box
from models.rendering.colormaps import Colormap
from models.rendering.heatmap import Look, render
from models.store.labels import read_labels
from models.store.store import Store

if TYPE_CHECKING:
    from models.explain.explainer import Explainer

_BATCH = 16
_COLORMAP: TypeAdapter[Colormap] = TypeAdapter(Colormap)


class LocalExplainer:
    """A `cli.commands.explain.Explains` that loads the version itself, once."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._store = Store(settings.store_home)
        self._loaded: dict[str, Explainer] = {}

    def __call__(self, data: bytes, wanted: Wanted) -> bytes:
        try:
            return self._explain(data, wanted)
        except OpsinError as error:
            raise CommandError(error.detail) from None

    def _explain(self, data: bytes, wanted: Wanted) -> bytes:
        if wanted.layer is not None and wanted.method in PIXEL_METHODS:
            raise ValidationFailed(f"{wanted.method} looks at no layer. Leave --layer out.")
        model = wanted.model or self._default()
        version = self._store.resolve(model, None)
        explainer = self._explainer(model, version)
        manifest, limit = explainer.manifest, self._settings.max_image_pixels
        picture = decode(data, network=manifest, max_pixels=limit)
        from models.explain.answer import Answering  # TensorFlow

        ask = MapAsk(method=wanted.method, layer=wanted.layer)
        index = TOP_CLASS if wanted.class_index is None else wanted.class_index
        ((vector, note),) = Answering(explainer, manifest.explain_layer, _nothing).answer(
            ask, picture.pixels[np.newaxis], np.array([index], np.int32)
        )
        told = MapNote.model_validate_json(note)
        labels = read_labels(self._store.path(model, version))
        height, width = manifest.input_size
        size = (picture.width, picture.height)
        return render(
            data,
            [layer_of(vector, told, labels, wanted.method)],
            size=size,
            box=seen_box(size, (width, height), manifest.short_side, "crop"),
            look=Look(
                "overlay",
                _COLORMAP.validate_python(wanted.colormap),
                wanted.alpha,
                wanted.legend,
                compact=True,
            ),
            max_pixels=limit,
        )

    def _default(self) -> str:
        """The first configured model that the store has with a classifier.

        Raises:
            CommandError: There is none.
        """
        for model in self._settings.models:
            try:
                if self._store.manifest(model, self._store.resolve(model, None)).classes:
                    return model
            except OpsinError:
                continue
        raise CommandError("No version is in the store yet. `opsin up` imports the networks once.")

    def _explainer(self, model: str, version: int) -> "Explainer":
        if model not in self._loaded:
            from models.explain.explainer import Explainer
            from models.serving.devices import prepare_tensorflow  # TensorFlow

            prepare_tensorflow(self._settings.worker_threads)
            folder = self._store.path(model, version)
            self._loaded[model] = Explainer(folder, max_batch_size=_BATCH)
        return self._loaded[model]


def _nothing() -> None:
    """Nobody waits behind this question."""

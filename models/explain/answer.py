"""Answers what was asked of a version's reasons: from a note and pictures to numbers and a note."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from contracts.queue.explain_messages import (
    PIXEL_METHODS,
    ActivationsAsk,
    ActivationsNote,
    ChannelNote,
    MapAsk,
    MapNote,
)
from contracts.queue.messages import Pixels, Vector
from models.explain.explainer import Explainer
from models.explain.faithfulness import faithfulness
from models.explain.results import Explanations, Indices, Told


@dataclass(frozen=True, slots=True)
class Answering:
    """One version under question.

    Attributes:
        explainer: Runs its Keras model.
        explain_layer: The layer that is meant when none is named.
        between: Called between two steps of a long computation; it may raise to end it.
        progress: Told the fraction done of a slow method.
    """

    explainer: Explainer
    explain_layer: str
    between: Callable[[], None]
    progress: Callable[[float], None] = lambda _fraction: None

    def answer(self, ask: MapAsk | ActivationsAsk, images: Pixels, classes: Indices) -> list[Told]:
        """One answer a picture.

        Args:
            ask: What is asked of all of them.
            images: Of the version's input size, uint8 (n, height, width, 3).
            classes: Of each, int32 (n,); a negative one stands for the most probable.

        Raises:
            LayerNotFound: There is no such layer, or it has no maps.
        """
        if isinstance(ask, ActivationsAsk):
            layer = ask.layer or self.explain_layer
            maps = self.explainer.activations(images, layer, self._turn)
            return [_channels(ask, layer, one) for one in maps]
        return self._maps(ask, images, classes)

    def _maps(self, ask: MapAsk, images: Pixels, classes: Indices) -> list[Told]:
        probabilities = self.explainer.probabilities(images, self._turn)
        targets = np.where(classes < 0, probabilities.argmax(axis=1), classes).astype(np.int32)
        grids = self.explainer.heatmaps(
            ask.method,
            images,
            targets,
            ask.layer,
            progress=self._step,
            seed=ask.seed,
        )
        chosen = probabilities[np.arange(len(images)), targets]
        told = Explanations(grids, targets, chosen).told(self._layer(ask))
        if not ask.metrics:
            return told
        return [
            (vector, self._measured(note, image, vector))
            for (vector, note), image in zip(told, images, strict=True)
        ]

    def _turn(self, _fraction: float) -> None:
        self.between()

    def _step(self, fraction: float) -> None:
        self.between()
        self.progress(fraction)

    def _measured(self, note: bytes, image: Pixels, vector: Vector) -> bytes:
        def predict(pictures: Pixels) -> npt.NDArray[np.float32]:
            return self.explainer.probabilities(pictures, self._turn)

        told = MapNote.model_validate_json(note)
        metrics = faithfulness(predict, image, vector.reshape(told.shape), told.target)
        return told.model_copy(update={"metrics": metrics}).pack()

    def _layer(self, ask: MapAsk) -> str | None:
        return None if ask.method in PIXEL_METHODS else ask.layer or self.explain_layer


def _channels(ask: ActivationsAsk, layer: str, maps: npt.NDArray[np.float32]) -> Told:
    """The chosen channels of one picture, (gh, gw, channels) before, one after the other then."""
    means = maps.mean(axis=(0, 1))
    chosen = _chosen(ask, means)
    notes = [
        ChannelNote(
            index=index,
            smallest=float(maps[..., index].min()),
            largest=float(maps[..., index].max()),
            mean=float(means[index]),
        )
        for index in chosen
    ]
    rows, columns, total = maps.shape
    note = ActivationsNote(shape=(rows, columns), layer=layer, total=total, channels=tuple(notes))
    return np.moveaxis(maps[..., chosen], -1, 0).ravel(), note.pack()


def _chosen(ask: ActivationsAsk, means: npt.NDArray[np.float32]) -> Sequence[int]:
    total = len(means)
    count = min(ask.channels, total)
    if ask.order == "index":
        return list(range(count))
    if ask.order == "random":
        drawn = np.random.default_rng(ask.seed).choice(total, count, replace=False)
        return [int(index) for index in np.sort(drawn)]
    return [int(index) for index in np.argsort(-means, kind="stable")[:count]]

"""The replies to explain requests: from a request and images to numbers and a note."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from contracts.queue.explain_messages import (
    PIXEL_METHODS,
    ActivationsReply,
    ActivationsRequest,
    ChannelSummary,
    ExplainReply,
    ExplainRequest,
)
from contracts.queue.messages import Pixels, Vector
from models.explain.explainer import Explainer
from models.explain.faithfulness import faithfulness
from models.explain.results import EncodedReply, Explanations, Indices


@dataclass(frozen=True, slots=True)
class ExplainReplyBuilder:
    """Builds the replies to requests about one version.

    Attributes:
        explainer: Runs its Keras model.
        explain_layer: The layer to use where a request names none.
        between_steps: Called between two steps of a long computation; may raise to stop it.
        progress: Called with the fraction done of a slow method.
    """

    explainer: Explainer
    explain_layer: str
    between_steps: Callable[[], None]
    progress: Callable[[float], None] = lambda _fraction: None

    def build(
        self, request: ExplainRequest | ActivationsRequest, images: Pixels, classes: Indices
    ) -> list[EncodedReply]:
        """One reply for each image.

        Args:
            request: The same for all of them.
            images: Of the version's input size, uint8 (n, height, width, 3).
            classes: The class of each, int32 (n,); a negative one stands for the most probable.

        Raises:
            LayerNotFound: There is no such layer, or it has no maps.
        """
        if isinstance(request, ActivationsRequest):
            layer = request.layer or self.explain_layer
            activations = self.explainer.activations(images, layer, self._after_step)
            return [_encode_channels(request, layer, maps) for maps in activations]
        return self._heatmaps(request, images, classes)

    def _heatmaps(
        self, request: ExplainRequest, images: Pixels, classes: Indices
    ) -> list[EncodedReply]:
        probabilities = self.explainer.probabilities(images, self._after_step)
        targets = np.where(classes < 0, probabilities.argmax(axis=1), classes).astype(np.int32)
        grids = self.explainer.heatmaps(
            request.method,
            images,
            targets,
            request.layer,
            progress=self._report_step,
            seed=request.seed,
        )
        target_probabilities = probabilities[np.arange(len(images)), targets]
        layer = None if request.method in PIXEL_METHODS else request.layer or self.explain_layer
        replies = Explanations(grids, targets, target_probabilities).encode(layer)
        if not request.metrics:
            return replies
        return [
            (vector, self._with_metrics(note, image, vector))
            for (vector, note), image in zip(replies, images, strict=True)
        ]

    def _after_step(self, _fraction: float) -> None:
        self.between_steps()

    def _report_step(self, fraction: float) -> None:
        self.between_steps()
        self.progress(fraction)

    def _with_metrics(self, note: bytes, image: Pixels, vector: Vector) -> bytes:
        def predict(images: Pixels) -> npt.NDArray[np.float32]:
            return self.explainer.probabilities(images, self._after_step)

        reply = ExplainReply.model_validate_json(note)
        metrics = faithfulness(predict, image, vector.reshape(reply.shape), reply.target)
        return reply.model_copy(update={"metrics": metrics}).pack()


def _encode_channels(
    request: ActivationsRequest, layer: str, maps: npt.NDArray[np.float32]
) -> EncodedReply:
    """The requested channels of one image's maps, (gh, gw, channels), one after the other."""
    means = maps.mean(axis=(0, 1))
    indices = _select_channels(request, means)
    summaries = [
        ChannelSummary(
            index=index,
            smallest=float(maps[..., index].min()),
            largest=float(maps[..., index].max()),
            mean=float(means[index]),
        )
        for index in indices
    ]
    rows, columns, total = maps.shape
    reply = ActivationsReply(
        shape=(rows, columns), layer=layer, total=total, channels=tuple(summaries)
    )
    return np.moveaxis(maps[..., indices], -1, 0).ravel(), reply.pack()


def _select_channels(request: ActivationsRequest, means: npt.NDArray[np.float32]) -> Sequence[int]:
    total = len(means)
    count = min(request.channels, total)
    if request.order == "index":
        return list(range(count))
    if request.order == "random":
        drawn = np.random.default_rng(request.seed).choice(total, count, replace=False)
        return [int(index) for index in np.sort(drawn)]
    return [int(index) for index in np.argsort(-means, kind="stable")[:count]]

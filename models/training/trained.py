"""The result of a training before it is exported: the network and its evaluation."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from contracts.inference.manifest import Provenance
from contracts.training.trainings import TrainingRequest
from models.datasets.dataset import Example, Split
from models.export.signatures import Blueprint
from models.store.labels import Label


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The finished network's predictions on one split.

    Attributes:
        examples: The images in the dataset's order.
        truth: int32 (n,), the class of each.
        probabilities: float32 (n, classes).
        loss: Mean cross-entropy, unweighted and without penalties.
        accuracy: Share of correct predictions, 0 to 1.
    """

    examples: tuple[Example, ...]
    truth: npt.NDArray[np.int32]
    probabilities: npt.NDArray[np.float32]
    loss: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class FilterFrame:
    """A layer's kernels at one step of a training.

    Attributes:
        step: Number of training steps before it; 0 in the first frame.
        kernels: float32 (height, width, channels, filters).
    """

    step: int
    kernels: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ResponseFrame:
    """What a layer makes of one held-out image at one step of a training.

    Attributes:
        step: Number of training steps before it; 0 in the first frame.
        maps: float16 (height, width, channels), reduced in size and to the first channels.
    """

    step: int
    maps: npt.NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A trained network that is not published yet.

    Attributes:
        request: The training.
        model: Flat and in float32, from preprocessed images to probabilities: a softmax, or one
            sigmoid for two classes.
        blueprint: What `models.export.saved_model.export_version` has to know besides.
        labels: A name for each class.
        history: One row per epoch, in order, as sent to `work.metrics`.
        evaluations: By split; splits without images are missing.
        phase_seconds: Wall-clock time of ``features``, ``head``, ``finetune``, ``scratch`` and
            ``evaluate``, summed over all attempts; phases that did not run are missing.
        best_epochs: By phase, the epoch whose weights were kept.
        provenance: Base weights, dataset and job.
        devices: Names of the devices it was trained on.
        filters: Frames for `filters.gif`, if they were requested.
        responses: Frames for `response.gif`, likewise.
    """

    request: TrainingRequest
    model: keras.Model
    blueprint: Blueprint
    labels: tuple[Label, ...]
    history: tuple[dict[str, Any], ...]
    evaluations: Mapping[Split, Evaluation]
    phase_seconds: Mapping[str, float]
    best_epochs: Mapping[str, int]
    provenance: Provenance
    devices: tuple[str, ...]
    filters: tuple[FilterFrame, ...] = ()
    responses: tuple[ResponseFrame, ...] = ()

"""What a training hands over: the network and everything that was measured on the way."""

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
    """The finished network's answers on one split, as the exported version will give them.

    Attributes:
        examples: The pictures, in the dataset's order.
        truth: int32 (n,), the class of each.
        probabilities: float32 (n, classes).
        loss: Mean cross-entropy, unweighted and without penalties.
        accuracy: Share of pictures whose most probable class is theirs, 0 to 1.
    """

    examples: tuple[Example, ...]
    truth: npt.NDArray[np.int32]
    probabilities: npt.NDArray[np.float32]
    loss: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class FilterFrame:
    """A layer's kernels at one moment of a training.

    Attributes:
        step: Training steps taken before it; the first frame's is 0.
        kernels: float32 (height, width, channels, filters).
    """

    step: int
    kernels: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Trained:
    """A finished training, not yet published.

    Attributes:
        request: What was asked for.
        model: Flat, in float32, from preprocessed pictures to probabilities: a softmax, or one
            sigmoid for two classes.
        blueprint: What `models.export.saved_model.export_version` has to know besides.
        labels: A name for each output.
        history: A row for each epoch, in order, as `work.metrics` got them.
        evaluations: By split; a split without pictures is left out.
        phase_seconds: Wall-clock time of ``features``, ``head``, ``finetune``, ``scratch`` and
            ``evaluate``, as far as they were done in this attempt or an earlier one.
        best_epochs: By phase, the epoch whose weights were kept.
        provenance: Base weights, dataset and job.
        devices: What it was computed on.
        filters: Frames for `filters.gif`, if they were asked for.
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

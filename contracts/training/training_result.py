"""Schemas of a training's result: the `result` of a job of the kind `training`."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from contracts.inference.manifest import ModelName, Parity, Provenance, Served
from contracts.inference.serving import Serving

Promote = Literal["if_better", "always", "never"]
Split = Literal["train", "validation", "test"]
Share = Annotated[float, Field(ge=0, le=1)]


class SplitMetrics(BaseModel):
    """Metrics of a model on one split. Macro averages leave out classes without images."""

    pictures: int = Field(description="Number of images.")
    loss: float = Field(ge=0, description="Mean cross-entropy, unweighted and without penalties.")
    accuracy: Share
    top5_accuracy: Share | None = Field(None, description="null with fewer than 10 classes.")
    macro_precision: Share
    macro_recall: Share
    macro_f1: Share
    calibration_error: Share = Field(
        description="Expected calibration error: mean difference of confidence and accuracy."
    )


class ClassReport(BaseModel):
    """Metrics of a model on one class of the held-out split; null where undefined."""

    label: str
    precision: Share | None = Field(
        description="Share of the predictions of this class that are correct."
    )
    recall: Share | None = Field(
        description="Share of the images of this class that are predicted correctly."
    )
    f1: Share | None
    support: int = Field(ge=0, description="Number of images of the class.")


class ConfusionMatrix(BaseModel):
    """How often each class was predicted for each true class."""

    labels: list[str]
    counts: list[list[int]] = Field(
        description="One row per true class, one column per predicted class."
    )


class Mistake(BaseModel):
    """An image that the model classified wrongly with high confidence."""

    name: str = Field(description="File name of the image.")
    sha256: str = Field(description="SHA-256 of the file.")
    label: str = Field(description="The true class.")
    predicted: str = Field(description="The predicted class.")
    probability: Share = Field(description="Probability of the predicted class.")
    label_probability: Share = Field(description="Probability of the true class.")


class Agreement(BaseModel):
    """How well the exported files agree with the evaluation of the trained network."""

    pictures: int = Field(ge=1)
    largest_difference: float = Field(ge=0, description="Largest difference of any probability.")
    compared: str = Field(
        "the exported SavedModel with the trained network, both computed by TensorFlow in float32",
        description="What was compared with what. `served` has the runtime that answers requests.",
    )


class Promotion(BaseModel):
    """Whether the new version became the champion, and why."""

    rule: Promote
    promoted: bool
    reason: str
    accuracy: Share | None = Field(None, description="Accuracy of the new version.")
    champion: int | None = Field(None, description="The previous champion.")
    champion_accuracy: Share | None = Field(
        None, description="Accuracy of the previous champion on the same images."
    )


class TrainingReport(BaseModel):
    """The evaluation and the origin of a trained network."""

    model: ModelName
    network: str
    classes: list[str]
    held_out: Split = Field(
        description="The split of the metrics below: test, or validation if there is no test split."
    )
    metrics: dict[Split, SplitMetrics] = Field(
        description="Those of the held-out split are of the runtime that serves, see `served`; "
        "the others were computed in float32 by the training."
    )
    per_class: list[ClassReport]
    confusion_matrix: ConfusionMatrix
    curves: list[dict[str, Any]] = Field(
        description="One row per epoch, as in the job's `metrics`."
    )
    best_epochs: dict[str, int] = Field(description="By phase, the epoch whose weights were kept.")
    stopped_early: dict[str, int] = Field(
        {},
        description="By phase, the epoch after which it ended because of early_stopping_patience.",
    )
    most_wrong: list[Mistake]
    parity: Parity
    agreement: Agreement
    served: Served | None = Field(
        None,
        description="What the runtime that serves answered for all held-out images; `metrics`, "
        "`per_class`, `confusion_matrix` and `most_wrong` are of these answers. Null before this "
        "was measured.",
    )
    provenance: Provenance
    devices: list[str] = Field(description="Names of the devices it was trained on.")
    seconds: dict[str, float] = Field(description="Time spent in each phase.")


class TrainingResult(TrainingReport):
    """A training's report and the version that it published."""

    version: int = Field(ge=1)
    promoted: bool
    promotion: Promotion
    serving: Serving | None = Field(
        None,
        description="On which workers the promoted version answers; null if it was not promoted, "
        "or was trained without a service.",
    )
    finished_at: datetime

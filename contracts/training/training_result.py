"""What a training says when it is done: the `result` of a job of the kind `training`."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from contracts.inference.manifest import ModelName, Parity, Provenance

Promote = Literal["if_better", "always", "never"]
Split = Literal["train", "validation", "test"]
Share = Annotated[float, Field(ge=0, le=1)]


class SplitMetrics(BaseModel):
    """How a model does on one split. Means over classes leave out those without pictures."""

    pictures: int = Field(description="How many it was measured on.")
    loss: float = Field(ge=0, description="Mean cross-entropy, unweighted and without penalties.")
    accuracy: Share
    top5_accuracy: Share | None = Field(None, description="From 10 classes on.")
    macro_precision: Share
    macro_recall: Share
    macro_f1: Share
    calibration_error: Share = Field(
        description="By how much its probabilities differ from how often it is right, on average."
    )


class ClassReport(BaseModel):
    """How a model does on one class of the held-out split; null where nothing can be said."""

    label: str
    precision: Share | None = Field(description="Of those called so, the share that is so.")
    recall: Share | None = Field(description="Of those that are so, the share called so.")
    f1: Share | None
    support: int = Field(ge=0, description="Pictures of the class.")


class ConfusionMatrix(BaseModel):
    """Which class was taken for which."""

    labels: list[str]
    counts: list[list[int]] = Field(description="A row a true class, a column a predicted one.")


class Mistake(BaseModel):
    """A picture that the model was sure of, and wrong."""

    name: str = Field(description="The picture's file name.")
    sha256: str = Field(description="Of its file.")
    label: str = Field(description="What it is.")
    predicted: str = Field(description="What the model said.")
    probability: Share = Field(description="How sure it was.")
    label_probability: Share = Field(description="What it gave the true class.")


class Agreement(BaseModel):
    """Whether the exported files say of held-out pictures what was measured before the export."""

    pictures: int = Field(ge=1)
    largest_difference: float = Field(ge=0, description="Of any probability.")


class Promotion(BaseModel):
    """Whether the new version became champion, and why."""

    rule: Promote
    promoted: bool
    reason: str
    accuracy: Share | None = Field(None, description="The new version's, as it was compared.")
    champion: int | None = Field(None, description="The version that was champion before.")
    champion_accuracy: Share | None = Field(None, description="That one's, on the same pictures.")


class TrainingReport(BaseModel):
    """How good a trained network is and where it comes from."""

    model: ModelName
    network: str
    classes: list[str]
    held_out: Split = Field(
        description="The split of the figures below: test, or validation where there is no test."
    )
    metrics: dict[Split, SplitMetrics]
    per_class: list[ClassReport]
    confusion_matrix: ConfusionMatrix
    curves: list[dict[str, Any]] = Field(description="A row an epoch, as in the job's `metrics`.")
    best_epochs: dict[str, int] = Field(description="By phase, the epoch whose weights were kept.")
    most_wrong: list[Mistake]
    parity: Parity
    agreement: Agreement
    provenance: Provenance
    devices: list[str] = Field(description="What it was computed on.")
    seconds: dict[str, float] = Field(description="Where the time went, by phase.")


class TrainingResult(TrainingReport):
    """The version that was made: a training's report, and what became of it."""

    version: int = Field(ge=1)
    promoted: bool
    promotion: Promotion
    finished_at: datetime

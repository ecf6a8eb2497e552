"""Schemas of `POST /v1/models/{name}/versions/{version}/evaluations` and of its job's result."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from contracts.bodies import Body
from contracts.inference.manifest import ModelName
from contracts.training.training_result import (
    ClassReport,
    ConfusionMatrix,
    Mistake,
    Share,
    SplitMetrics,
)

EvaluatedSplit = Literal["train", "validation", "test", "all"]
Verdict = Literal["better", "worse", "no_difference"]
Difference = Annotated[float, Field(ge=-1, le=1)]


class EvaluationBody(Body):
    """What to measure a version on."""

    dataset_id: str = Field(
        description="Labeled images. Classes are matched with the version's labels by name or id.",
        max_length=64,
        examples=["ds_7f3a9c"],
    )
    split: EvaluatedSplit | None = Field(
        None,
        description="The images to measure. Default: the test images, otherwise the validation "
        "images, otherwise all, as a training reports them.",
    )
    against: int | None = Field(
        None,
        ge=1,
        le=999_999_999,
        description="Another version of the model, to compare with on the same images.",
    )


class EvaluationRequest(EvaluationBody):
    """The request of the job: the body, and the version."""

    model: ModelName
    version: int = Field(ge=1)


class Interval(BaseModel):
    """A confidence interval."""

    low: float
    high: float
    confidence: float = 0.95


class ClassEvaluation(ClassReport):
    """Metrics of one class, with the interval of its recall."""

    recall_interval: Interval = Field(description="Clopper and Pearson's exact interval.")


class Comparison(BaseModel):
    """Two versions on the same images: those whose classes both have."""

    against: int = Field(description="The other version.")
    runtime: str = Field(description="What served the other version's answers.")
    pictures: int = Field(ge=1, description="Number of images.")
    accuracy: Share = Field(description="Of the measured version on these images.")
    against_accuracy: Share
    against_accuracy_interval: Interval
    difference: Difference = Field(description="`accuracy` less `against_accuracy`.")
    difference_interval: Interval = Field(
        description="For paired answers, by the adjusted method of Agresti and Min (2005)."
    )
    both_right: int
    only_version_right: int = Field(description="Right in the measured version only.")
    only_against_right: int = Field(description="Right in the other version only.")
    both_wrong: int
    p_value: Share = Field(
        description="McNemar's exact test, two-sided: how likely a difference at least as large is "
        "if both versions are equally good."
    )
    verdict: Verdict = Field(
        description="Of the measured version: better or worse if p_value is below 0.05."
    )


class EvaluationWarning(BaseModel):
    """What a reader of the figures should know."""

    code: Literal["unknown_classes", "missing_classes", "seen_in_training", "refused"]
    detail: str


class EvaluationResult(BaseModel):
    """The figures of a version on a dataset, of the runtime that serves it."""

    model: ModelName
    version: int
    network: str
    runtime: str = Field(description="What computed the answers, e.g. openvino-bfloat16.")
    dataset_id: str
    dataset_digest: str
    split: EvaluatedSplit
    classes: list[str]
    pictures: int = Field(ge=1, description="Number of measured images.")
    accuracy: Share
    accuracy_interval: Interval = Field(description="Clopper and Pearson's exact interval.")
    metrics: SplitMetrics = Field(description="As a training reports them for its test split.")
    per_class: list[ClassEvaluation]
    confusion_matrix: ConfusionMatrix
    most_wrong: list[Mistake]
    unknown_classes: dict[str, int] = Field(
        description="Images that were left out because the version has no such class."
    )
    refused: dict[str, int] = Field(
        {},
        description="Images that were left out because the version answers no request with them, "
        "by error code: one that was trained on faces needs one face in each.",
    )
    seen_in_training: int | None = Field(
        None,
        description="Measured images that the version, or one it goes on from, was trained on; "
        "null if a dataset or version that would tell is gone or was changed.",
    )
    comparison: Comparison | None = None
    warnings: list[EvaluationWarning] = []
    seconds: float = Field(ge=0, description="How long the measurement took.")

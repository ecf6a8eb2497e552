"""Schemas of `POST /v1/sweeps`: one training with several settings, of which the best is kept."""

import re
from math import prod
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from contracts.bodies import Body, at_most
from contracts.inference.manifest import ModelName
from contracts.inference.serving import Serving
from contracts.jobs import JobError
from contracts.training.training_result import Promotion, Split, SplitMetrics

MAX_TRAININGS = 100
MAX_COMBINATIONS = 1_000_000
_LONGEST_PATH = 64
_MAX_PATHS = 16
FIXED = ("dataset_id", "model", "subjects", "promote")
"""Fields that are the same in all trainings of a sweep."""

_PATH = re.compile(r"[a-z_0-9]+(\.[a-z_0-9]+)*")

SweepMetric = Literal["accuracy", "macro_f1", "loss"]
Values = Annotated[list[Any], Field(min_length=1, max_length=100)]


def _plain_metric(value: Any) -> Any:
    """The metric without the split, which is always the validation images."""
    return re.sub("^val(idation)?_", "", value) if isinstance(value, str) else value


class SweepBody(Body):
    """A training, and the values to try for some of its fields."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "training": {
                        "dataset_id": "ds_8Zk3vQmT1xYpL0aB",
                        "model": "pets",
                        "network": "squeezenet",
                    },
                    "grid": {
                        "learning_rate.head": [0.01, 0.001],
                        "head.dropout": [0, 0.3, 0.5],
                    },
                }
            ]
        },
    )

    training: dict[str, Any] = Field(
        description="The body of `POST /v1/trainings`; `promote` is for the best version."
    )
    grid: Annotated[dict[str, Values], at_most(_MAX_PATHS)] = Field(
        min_length=1,
        max_length=_MAX_PATHS,
        description="The values of each field to try, by its path, e.g. `learning_rate.head`. All "
        "combinations are tried, or `max_trainings` of them, drawn at random by the training's "
        "seed.",
    )
    max_trainings: int = Field(20, ge=1, le=MAX_TRAININGS)
    metric: Annotated[SweepMetric, BeforeValidator(_plain_metric)] = Field(
        "accuracy",
        description="What decides, measured on the validation images: the highest, or the lowest "
        "loss.",
    )

    @model_validator(mode="after")
    def _has_a_bounded_grid(self) -> Self:
        for path in self.grid:
            if len(path) > _LONGEST_PATH or not _PATH.fullmatch(path):
                raise ValueError(
                    f"grid: {path[:64]} is no path of a field, such as learning_rate.head"
                )
            if path.partition(".")[0] in FIXED:
                raise ValueError(f"grid: {path} must be the same in all trainings; leave it out")
        if self.training.get("subjects") is not None:
            raise ValueError("training: a sweep needs a dataset_id; leave out subjects")
        if prod(map(len, self.grid.values())) > MAX_COMBINATIONS:
            raise ValueError(f"grid: it has more than {MAX_COMBINATIONS:,} combinations")
        return self


class SweepTraining(BaseModel):
    """One training of a sweep, before it has run."""

    values: dict[str, Any] = Field(description="The value of each field of the grid.")
    request: dict[str, Any] = Field(description="The complete training.")


class SweepRequest(BaseModel):
    """The request of the job.

    `dataset_id` and `model` are those of all trainings; a dataset that a job names is not deleted.
    """

    dataset_id: str
    model: ModelName
    combinations: int
    metric: SweepMetric
    trainings: list[SweepTraining]


class SweepRow(BaseModel):
    """One training of a sweep, after it has run."""

    number: int = Field(ge=1)
    values: dict[str, Any] = Field(description="The value of each field of the grid.")
    score: float | None = Field(None, description="The metric that decides; null if it failed.")
    metrics: dict[Split, SplitMetrics] = {}
    epochs: int = 0
    seconds: float = Field(0, ge=0)
    version: int | None = Field(
        None, description="The version it made, if that is kept: only the best one is."
    )
    error: JobError | None = Field(None, description="Why it failed.")


class SweepResult(BaseModel):
    """The `result` of a job of the kind `sweep`."""

    model: ModelName
    metric: SweepMetric
    combinations: int = Field(description="How many the grid has.")
    trainings: list[SweepRow]
    best: int = Field(description="The number of the best training.")
    version: int = Field(description="Its version.")
    promoted: bool
    promotion: Promotion
    serving: Serving | None = None

"""What a calibration of the face threshold may be asked for, and what it answers.

A pair of faces matches if its similarity reaches the threshold. FMR is the share of pairs of
different people that match all the same, FNMR the share of pairs of one person that do not.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

LeftOutReason = Literal["no_face", "many_faces", "low_quality", "unreadable", "too_many"]
GroupName = Annotated[str, StringConstraints(min_length=1, max_length=64)]


class CalibrationBody(BaseModel):
    """The body of `POST /v1/faces/calibrations`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset_id: str = Field(
        max_length=64,
        description="A dataset with one class a person; all its splits are used.",
        examples=["ds_7f3a9c"],
    )
    target_fmr: float = Field(
        0.001,
        gt=0,
        le=0.5,
        description="The false-match rate to keep; needs 3 / target_fmr pairs of different people.",
        examples=[0.001],
    )
    groups: dict[str, GroupName] | None = Field(
        None,
        max_length=10_000,
        description="By class, the group that the person belongs to, for a breakdown by group.",
        examples=[{"person01": "under 40", "person02": "over 40"}],
    )
    only_acceptable: bool = Field(
        True,
        description="Leave out faces that a login would refuse for their quality; false: use all.",
    )


class Rate(BaseModel):
    """An error rate, counted over pairs."""

    model_config = ConfigDict(frozen=True)

    rate: float | None = Field(description="Errors by pairs; null where there is no pair.")
    errors: int
    pairs: int
    interval: tuple[float, float] = Field(
        description="95 %: the hull of `independent` and of what comes out when the people are "
        "drawn again and again (bootstrap by subject), for pairs of the same few people are not "
        "independent."
    )
    independent: tuple[float, float] = Field(
        description="95 % after Clopper and Pearson, as if each pair were of other people: the "
        "narrowest that could be claimed."
    )


class HeldOut(BaseModel):
    """What a threshold chosen on half of the people does to the other half, over many halvings."""

    model_config = ConfigDict(frozen=True)

    fmr: float = Field(description="Median.")
    fmr_interval: tuple[float, float] = Field(description="The middle 95 %.")
    fnmr: float
    fnmr_interval: tuple[float, float]
    halvings: int


class DetPoint(BaseModel):
    """One point of the curve: the rates at a threshold."""

    model_config = ConfigDict(frozen=True)

    threshold: float
    fmr: float
    fnmr: float


class GroupRates(BaseModel):
    """The threshold's errors within one group: pairs of its own people only."""

    model_config = ConfigDict(frozen=True)

    group: str
    people: int
    fmr: Rate
    fnmr: Rate


class Calibration(BaseModel):
    """A threshold and what it was measured to do."""

    model_config = ConfigDict(frozen=True)

    target_fmr: float
    threshold: float = Field(description="A pair matches at this similarity or above.")
    threshold_interval: tuple[float, float] = Field(description="95 %, bootstrap by subject.")
    fmr: Rate
    fnmr: Rate
    held_out: HeldOut | None = Field(None, description="Null with fewer than four people.")
    equal_error_rate: float = Field(description="Where FMR and FNMR are the same.")
    smallest_supported_fmr: float = Field(description="3 by the impostor pairs (rule of three).")
    people: int = Field(description="Who have at least one usable face.")
    faces: int
    curve: tuple[DetPoint, ...]
    groups: tuple[GroupRates, ...] = ()
    warnings: tuple[str, ...] = ()


class LeftOut(BaseModel):
    """Pictures of one person that were not used, and why."""

    model_config = ConfigDict(frozen=True)

    person: str
    reason: LeftOutReason
    pictures: int
    detail: str = Field(description="What would help.")


class CalibrationResult(Calibration):
    """The result of the job."""

    dataset_id: str
    dataset_digest: str
    model: str
    version: int = Field(description="Of the embedder; a threshold holds for it alone.")
    pictures: int = Field(description="In the dataset.")
    left_out: tuple[LeftOut, ...] = ()

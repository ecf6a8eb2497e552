"""Request and result of a calibration of the face match threshold.

A pair of faces matches if its similarity reaches the threshold. The false match rate (FMR) is the
share of pairs of different people that match; the false non-match rate (FNMR) is the share of pairs
of the same person that do not.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from contracts.bodies import Body, at_most
from contracts.names import printable_name

LeftOutReason = Literal["no_face", "many_faces", "low_quality", "unreadable", "too_many"]
_MAX_GROUP_LENGTH = 64
GroupName = Annotated[str, StringConstraints(min_length=1, max_length=_MAX_GROUP_LENGTH)]
_MAX_GROUPS = 10_000


def _names_groups(value: Any) -> Any:
    """What was sent as groups, refused at the first that is wrong: there may be thousands."""
    if not isinstance(value, dict):
        return value
    named = {}
    for person, group in value.items():
        if not isinstance(group, str) or not 1 <= len(group) <= _MAX_GROUP_LENGTH:
            raise ValueError(f"{person[:64]}: send the name of a group, of 1 to 64 characters")
        try:
            named[person] = printable_name(group, _MAX_GROUP_LENGTH)
        except ValueError as error:
            raise ValueError(f"{person[:64]}: {error}") from None
    return named


STRICT_FMR, FALLBACK_FMR = 0.0001, 0.001


class CalibrationBody(Body):
    """The body of `POST /v1/faces/calibrations`."""

    model_config = ConfigDict(frozen=True)

    dataset_id: str = Field(
        max_length=64,
        description="A dataset with one class per person; all its splits are used.",
        examples=["ds_7f3a9c"],
    )
    target_fmr: float | None = Field(
        None,
        gt=0,
        le=0.5,
        description="The false match rate to stay within; needs 3 / target_fmr pairs of different "
        "people. Default: 0.0001 if the dataset has enough pairs for it, otherwise 0.001.",
        examples=[0.001],
    )
    groups: Annotated[
        dict[str, GroupName] | None, BeforeValidator(_names_groups), at_most(_MAX_GROUPS)
    ] = Field(
        None,
        max_length=_MAX_GROUPS,
        description="Maps a class to the group of the person, for error rates per group.",
        examples=[{"person01": "under 40", "person02": "over 40"}],
    )
    only_acceptable: bool = Field(
        True,
        description="Leave out faces whose quality a login would refuse; false uses all faces.",
    )


def default_target(impostor_pairs: int) -> float:
    """The rate that NIST SP 800-63B-4 asks for, 1 in 10,000, where the pairs support it.

    Half as many pairs again as it needs, since some faces will be left out.
    """
    return STRICT_FMR if impostor_pairs >= 1.5 * 3 / STRICT_FMR else FALLBACK_FMR


class Rate(BaseModel):
    """An error rate, counted over pairs."""

    model_config = ConfigDict(frozen=True)

    rate: float | None = Field(description="Errors divided by pairs; null if there are no pairs.")
    errors: int
    pairs: int
    interval: tuple[float, float] = Field(
        description="95% interval: covers both `independent` and a bootstrap over the people, "
        "because pairs of the same few people are not independent."
    )
    independent: tuple[float, float] = Field(
        description="95% Clopper-Pearson interval, as if no two pairs shared a person: the "
        "narrowest that could be claimed."
    )


class HeldOut(BaseModel):
    """Error rates on half of the people of thresholds chosen on the other half."""

    model_config = ConfigDict(frozen=True)

    fmr: float = Field(description="Median over the random halvings.")
    fmr_interval: tuple[float, float] = Field(description="The middle 95% of the halvings.")
    fnmr: float
    fnmr_interval: tuple[float, float]
    halvings: int


class DetPoint(BaseModel):
    """One point of the DET curve: the error rates at a threshold."""

    model_config = ConfigDict(frozen=True)

    threshold: float
    fmr: float
    fnmr: float


class GroupRates(BaseModel):
    """Error rates within one group, counted over pairs of its own people only."""

    model_config = ConfigDict(frozen=True)

    group: str
    people: int
    fmr: Rate
    fnmr: Rate


class Calibration(BaseModel):
    """A threshold and the error rates measured for it."""

    model_config = ConfigDict(frozen=True)

    target_fmr: float
    threshold: float = Field(description="A pair matches if its similarity is at least this.")
    threshold_interval: tuple[float, float] = Field(
        description="95%, by a bootstrap over the people."
    )
    fmr: Rate
    fnmr: Rate
    held_out: HeldOut | None = Field(None, description="Null with fewer than four people.")
    equal_error_rate: float = Field(description="The rate at which FMR and FNMR are equal.")
    smallest_supported_fmr: float = Field(description="3 / impostor pairs (rule of three).")
    people: int = Field(description="People with at least one usable face.")
    faces: int
    curve: tuple[DetPoint, ...]
    groups: tuple[GroupRates, ...] = ()
    warnings: tuple[str, ...] = ()


class LeftOut(BaseModel):
    """Images of one person that were not used, and why."""

    model_config = ConfigDict(frozen=True)

    person: str
    reason: LeftOutReason
    pictures: int
    detail: str = Field(description="What to do about it.")


class CalibrationResult(Calibration):
    """Result of a calibration job."""

    dataset_id: str
    dataset_digest: str
    model: str
    version: int = Field(
        description="Version of the face embedder; the threshold is valid for this version only."
    )
    pictures: int = Field(description="Images in the dataset.")
    left_out: tuple[LeftOut, ...] = ()

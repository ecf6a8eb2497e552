"""Consent to face recognition, and the policy of an installation."""

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Annotated, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from contracts.bodies import Body
from contracts.errors import ValidationFailed
from contracts.names import OpaqueId, printable_name

CLOCK_SKEW = timedelta(minutes=1)
"""How far a client's clock may be ahead of this one."""
MAX_FAILURES = 50
"""Failures in a row after which a face is disabled (NIST SP 800-63B-4, without tested PAD)."""
RECOMMENDED_RETENTION_DAYS = 1095
"""Three years, the longest time that BIPA allows after the last use."""

_MAX_REMARK_LENGTH = 200
_Remark = Annotated[
    str,
    Field(min_length=1, max_length=_MAX_REMARK_LENGTH),
    AfterValidator(partial(printable_name, most=_MAX_REMARK_LENGTH)),
]


class Consent(BaseModel):
    """What a person agreed to, and until when."""

    model_config = ConfigDict(frozen=True)

    version: str = Field(description="Version of the text, as you name it.")
    text_digest: str = Field(description="Digest of the text that was shown.")
    at: datetime = Field(description="When the person agreed.")
    by: str | None = Field(None, description="Who recorded it, or how.")
    expires_at: datetime | None = Field(None, description="null: until it is withdrawn.")

    def in_force(self, now: datetime) -> bool:
        """Whether it is valid at a time."""
        return self.at <= now + CLOCK_SKEW and not self.ends_by(now)

    def ends_by(self, time: datetime) -> bool:
        """Whether it has expired at a time."""
        return self.expires_at is not None and self.expires_at <= time


class NewConsent(Body):
    """A consent to record."""

    model_config = ConfigDict(frozen=True)

    version: OpaqueId = Field(examples=["2026-01"])
    text_digest: OpaqueId = Field(
        description="Digest of the text that was shown, e.g. its SHA-256 in hex, with which you "
        "can prove later what it was.",
        examples=["sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"],
    )
    at: AwareDatetime | None = Field(
        None, description="When the person agreed, not in the future; default: now."
    )
    by: _Remark | None = Field(None, description="Who recorded it, or how.", examples=["reception"])
    expires_at: AwareDatetime | None = Field(None, description="null: until it is withdrawn.")

    @field_validator("at", "expires_at")
    @classmethod
    def _to_utc(cls, value: datetime | None) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.at and self.expires_at and self.expires_at <= self.at:
            raise ValueError("expires_at must be after at")
        return self

    def given(self, now: datetime) -> Consent:
        """The consent as it is stored.

        Raises:
            ValidationFailed: It was given in the future, or has expired before it is given now.
        """
        consent = Consent(**self.model_dump() | {"at": self.at or now})
        if consent.at > now + CLOCK_SKEW:
            raise ValidationFailed(
                "consent.at is in the future. Record a consent once the person has agreed."
            )
        if consent.ends_by(consent.at):
            raise ValidationFailed(
                "consent.expires_at has passed. Send a later one, or the time of a consent that "
                "has expired as `at`."
            )
        return consent


class NewPolicy(Body):
    """What this installation requires; fields that are not sent get their default.

    OPSIN_FACE_CONSENT_REQUIRED and OPSIN_FACE_RETENTION_DAYS are a minimum that a policy can only
    make stricter.
    """

    model_config = ConfigDict(frozen=True)

    consent_required: bool = Field(
        False,
        description="Enroll, log in, verify and identify only subjects whose consent is in force.",
    )
    device_key_required: bool = Field(
        False,
        description="A login needs the `signature` of a device that is registered for the subject.",
    )
    liveness_required: bool = Field(
        False, description="A login needs a video that answers a challenge."
    )
    max_failures: int = Field(
        MAX_FAILURES,
        ge=5,
        le=100,
        description="Failures in a row after which the face is disabled and another factor is "
        "needed.",
    )
    retention_days: int | None = Field(
        None,
        ge=1,
        le=36_500,
        description="Erase subjects that were not used for so many days; null: never. "
        f"Recommended: {RECOMMENDED_RETENTION_DAYS}.",
    )
    retention_text: str | None = Field(
        None,
        min_length=1,
        max_length=20_000,
        description="What `GET /v1/faces/retention` shows to everyone; null: a text made from "
        "this policy.",
    )


class Policy(NewPolicy):
    """The policy in force."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    updated_at: datetime | None = None

"""API keys as clients see them: name, scopes, rate limit and expiry.

The secret itself appears once, in the response that creates the key.
"""

import re
from datetime import datetime, timedelta
from functools import partial
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, AwareDatetime, BaseModel, Field

from contracts.bodies import Body
from contracts.names import printable_name

Scope = Literal["infer", "train", "faces", "models", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
KEY_ID = r"^key_[0-9a-f]{12}$"
# The public id identifies the row to compare with, and the key to revoke when one is found in a
# log; the prefix lets secret scanners recognize a key.
KEY_PATTERN = re.compile(r"opsin_([0-9a-f]{12})_([0-9a-f]{48})")
# A key, or the beginning of one, in a place where it does not belong.
KEY_IN_TEXT = re.compile(r"(?i)opsin_[0-9a-f]{12}_[0-9a-f]*")
MAX_RATE_PER_MINUTE = 1_000_000
MAX_GRACE = timedelta(days=30)
_MAX_NAME_LENGTH = 100


def key_id_of(public: str) -> str:
    """The API's id of the key whose text contains the public id `public`."""
    return f"key_{public}"


Name = Annotated[
    str,
    Field(min_length=1, max_length=_MAX_NAME_LENGTH),
    AfterValidator(partial(printable_name, most=_MAX_NAME_LENGTH)),
]
Rate = Annotated[int, Field(ge=1, le=MAX_RATE_PER_MINUTE)]


class NewKey(Body):
    """A key to create."""

    name: Name = Field(description="Whom or what it is for.", examples=["billing service"])
    scopes: list[Scope] = Field(
        min_length=1, max_length=len(SCOPES), description="What it may do; `admin` includes all."
    )
    expires_at: AwareDatetime | None = Field(None, description="When it expires; never if omitted.")
    rate_per_minute: Rate | None = Field(
        None, description="Maximum requests per minute over all API processes; no limit if omitted."
    )


class Rotation(Body):
    """How to replace a key."""

    grace_seconds: int = Field(
        86_400,
        ge=0,
        le=int(MAX_GRACE.total_seconds()),
        description="How long the old key remains valid.",
    )


class KeyInfo(BaseModel):
    """A key, without its secret."""

    id: str
    name: str
    scopes: list[Scope]
    rate_per_minute: int | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None = Field(
        description="Accurate to about a minute; null if never used."
    )


class MadeKey(KeyInfo):
    """A key that was just created."""

    key: str | None = Field(
        description="The secret, shown only once. Null for a repeated Idempotency-Key, as it is "
        "not stored; revoke the key and create another."
    )
    note: str | None = Field(
        None, description="What else this key has changed: the first one ends open access."
    )

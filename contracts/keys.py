"""What a key is, seen from outside: a name, what it may do, how often, and until when.

The secret itself appears once, in the answer that made it.
"""

import re
from datetime import datetime, timedelta
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

Scope = Literal["infer", "train", "faces", "models", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
KEY_ID = r"^key_[0-9a-f]{12}$"
# The public id in it says which row to compare with, and what to revoke when one is found in a
# log; the prefix lets scanners of source code recognise it.
KEY_PATTERN = re.compile(r"opsin_([0-9a-f]{12})_([0-9a-f]{48})")
# A key, or the beginning of one, wherever it does not belong.
KEY_IN_TEXT = re.compile(r"(?i)opsin_[0-9a-f]{12}_[0-9a-f]*")
MOST_RATE = 1_000_000
LONGEST_GRACE = timedelta(days=30)


def key_id_of(public: str) -> str:
    """The id, as the API names it, of the key whose text holds `public`."""
    return f"key_{public}"


def _printable(name: str) -> str:
    if not name.isprintable() or name != name.strip():
        raise ValueError("must be printable, without spaces at its ends")
    return name


Name = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_printable)]
Rate = Annotated[int, Field(ge=1, le=MOST_RATE)]


class NewKey(BaseModel):
    """What is asked for: a key that does not exist yet."""

    model_config = ConfigDict(extra="forbid")

    name: Name = Field(description="Whose it is, for people.", examples=["billing service"])
    scopes: list[Scope] = Field(
        min_length=1, max_length=len(SCOPES), description="What it may do; `admin` may do all."
    )
    expires_at: AwareDatetime | None = Field(
        None, description="When it ends by itself; left out, never."
    )
    rate_per_minute: Rate | None = Field(
        None, description="Most requests in any minute, over all API processes; left out, no limit."
    )


class Rotation(BaseModel):
    """How an old key gives way to a new one."""

    model_config = ConfigDict(extra="forbid")

    grace_seconds: int = Field(
        86_400,
        ge=0,
        le=int(LONGEST_GRACE.total_seconds()),
        description="How long the old key still works.",
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
    last_used_at: datetime | None = Field(description="To the minute or so; null if never.")


class MadeKey(KeyInfo):
    """A key just made."""

    key: str | None = Field(
        description="The secret, shown this once. Null where an Idempotency-Key is sent again: "
        "it is not kept; revoke the key and make another."
    )

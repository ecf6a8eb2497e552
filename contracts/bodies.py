"""What the objects that clients send as JSON have in common.

For each part that is wrong an error is made, on the event loop, and only then is the number of
parts compared with a maximum. So they are counted before.
"""

from typing import Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator

MAX_FIELDS = 100
"""Of an object with named fields; the largest, a training, has half as many."""


def at_most(most: int) -> BeforeValidator:
    """Refuses an object or a list of more parts with one error."""

    def check(value: Any) -> Any:
        if isinstance(value, dict | list) and len(value) > most:
            raise ValueError(f"send at most {most:,}, not {len(value):,}")
        return value

    return BeforeValidator(check)


class Body(BaseModel):
    """Refuses unknown fields: otherwise a misspelled one would be ignored and its default used."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _has_few_fields(cls, value: Any) -> Any:
        if isinstance(value, dict) and len(value) > MAX_FIELDS:
            raise ValueError(f"send at most {MAX_FIELDS} fields, not {len(value):,}")
        return value

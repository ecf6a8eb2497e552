"""Where the next page of a list starts, written so that clients hand it back unread."""

import base64
import binascii
import json
from datetime import UTC, datetime
from typing import Any

from contracts.errors import ValidationFailed

MOST_LISTED = 200


def require_limit(limit: int) -> None:
    """Raises ValidationFailed unless a page may have so many items."""
    if not 1 <= limit <= MOST_LISTED:
        raise ValidationFailed(f"limit must lie between 1 and {MOST_LISTED}.")


def cursor_of(*place: str | int) -> str:
    """The place as a client sees it."""
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode()


def place_of(cursor: str, parts: int) -> list[Any]:
    """The place that `cursor_of` was given.

    Raises:
        ValidationFailed: The cursor is none of ours.
    """
    try:
        found = json.loads(base64.b64decode(cursor, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, RecursionError):
        raise bad_cursor() from None
    if not isinstance(found, list) or len(found) != parts:
        raise bad_cursor()
    return found


def moment_and_id(cursor: str) -> tuple[datetime, str]:
    """The place of a list that is ordered by time and id.

    Raises:
        ValidationFailed: The cursor is none of ours.
    """
    made, name = place_of(cursor, 2)
    try:
        moment = datetime.fromisoformat(made).astimezone(UTC)
    except (ValueError, TypeError, OverflowError):
        raise bad_cursor() from None
    if not isinstance(name, str) or not name.isascii() or "\0" in name:
        raise bad_cursor()
    return moment, name


def bad_cursor() -> ValidationFailed:
    """What to raise of a cursor that leads nowhere."""
    return ValidationFailed("The cursor is none of ours. Use next_cursor of the page before.")

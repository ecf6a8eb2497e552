"""Cursors and limits of paged lists.

A cursor holds the sort key of the last item of a page. Clients send it back without reading it.
"""

import base64
import binascii
import json
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from sqlalchemy import Text, cast, func, select
from sqlalchemy.orm import Session

from contracts.errors import ValidationFailed

MAX_PAGE_SIZE = 200
MAX_PAGE_BYTES = 1024 * 1024
"""Of the rows of one page of jobs or datasets, which may be large."""

Reserve = Callable[[int], None]
"""Called with the number of bytes about to be read; raises if there is no room for them now."""
_SIZED_TOGETHER = 16
_MAX_NUMBER = 2**31 - 1


def require_limit(limit: int) -> None:
    """Raise ValidationFailed unless a page may have that many items."""
    if not 1 <= limit <= MAX_PAGE_SIZE:
        raise ValidationFailed(f"limit must be between 1 and {MAX_PAGE_SIZE}.")


def encode_cursor(*sort_key: str | int) -> str:
    """The opaque cursor of a sort key."""
    return base64.urlsafe_b64encode(json.dumps(sort_key).encode()).decode()


def decode_cursor(cursor: str, parts: int) -> list[Any]:
    """The sort key that `encode_cursor` was given.

    Args:
        cursor: As the client sent it.
        parts: The number of values in the sort key.

    Raises:
        ValidationFailed: The cursor is not valid.
    """
    try:
        sort_key = json.loads(base64.b64decode(cursor, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, RecursionError):
        raise invalid_cursor() from None
    if not isinstance(sort_key, list) or len(sort_key) != parts:
        raise invalid_cursor()
    return sort_key


def decode_time_and_id(cursor: str) -> tuple[datetime, str]:
    """The sort key of a list that is ordered by time and id.

    Raises:
        ValidationFailed: The cursor is not valid.
    """
    text, row_id = decode_cursor(cursor, 2)
    try:
        moment = datetime.fromisoformat(text)
        utc = moment.astimezone(UTC)
    except (ValueError, TypeError, OverflowError):
        raise invalid_cursor() from None
    is_id = isinstance(row_id, str) and row_id.isascii() and "\0" not in row_id
    if moment.tzinfo is None or not is_id:
        raise invalid_cursor()
    return utc, row_id


def decode_number(cursor: str) -> int:
    """The sort key of a list that is ordered by a 32-bit number.

    Raises:
        ValidationFailed: The cursor is not valid.
    """
    (number,) = decode_cursor(cursor, 1)
    if not isinstance(number, int) or not 0 <= number <= _MAX_NUMBER:
        raise invalid_cursor()
    return number


def decode_name(cursor: str) -> str:
    """The sort key of a list that is ordered by name.

    Raises:
        ValidationFailed: The cursor is not valid.
    """
    (name,) = decode_cursor(cursor, 1)
    if not isinstance(name, str):
        raise invalid_cursor()
    return name


def row_number(cursor: str) -> int:
    """The row number that a plain decimal cursor holds.

    Raises:
        ValidationFailed: The cursor is not valid.
    """
    if not (cursor.isascii() and cursor.isdecimal() and 0 < len(cursor) < 10):
        raise invalid_cursor()
    return int(cursor)


def invalid_cursor() -> ValidationFailed:
    """The error for a cursor that this service did not issue."""
    return ValidationFailed("The cursor is not valid. Use next_cursor of the previous page.")


def sizes_of(
    session: Session, ids: Iterable[str], column: Any, size: Any
) -> Iterator[tuple[str, int]]:
    """Id and bytes of each row; a few at a time, because SQLite reads a value to measure it.

    Args:
        session: To read in.
        ids: In order.
        column: Of the id.
        size: Expression of the bytes.
    """
    remaining, most = iter(ids), 2
    while batch := list(islice(remaining, most)):
        most = min(2 * most, _SIZED_TOGETHER)
        measured = session.execute(select(column, size).where(column.in_(batch)))
        sizes = {row_id: int(length) for row_id, length in measured}
        yield from ((row_id, sizes.get(row_id, 0)) for row_id in batch)


def rows_within(sizes: Iterable[tuple[str, int]], most: int) -> dict[str, int]:
    """The first of these rows that have no more than `most` bytes together, at least one.

    A page is bounded by its number of rows, of which a single one can have megabytes.

    Args:
        sizes: Id and bytes of each, in order; read no further than needed.
        most: Bytes.

    Returns:
        The bytes of each, by id, in order.
    """
    total, chosen = 0, dict[str, int]()
    for row_id, size in sizes:
        total += size
        if chosen and total > most:
            break
        chosen[row_id] = size
    return chosen


def read_anyway(_size: int) -> None:
    """A `Reserve` for callers that read alone."""


def length_of(column: Any) -> Any:
    """Bytes, or characters, of a JSON column, for a query."""
    return func.coalesce(func.length(cast(column, Text)), 0)

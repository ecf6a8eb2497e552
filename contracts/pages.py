"""Paged lists: the query parameters and the shape of the response."""

import json
from collections.abc import Iterable, Sequence
from typing import Annotated, Generic, Self, TypeVar

from pydantic import BaseModel, Field

T = TypeVar("T")

_CURSOR = "`next_cursor` of the previous page."
PageLimit = Annotated[int, Field(ge=1, le=200, description="Maximum number of items per page.")]
PageCursor = Annotated[
    str | None, Field(max_length=256, pattern=r"^[A-Za-z0-9_=-]+$", description=_CURSOR)
]
RowCursor = Annotated[str | None, Field(pattern=r"^[0-9]{1,9}$", description=_CURSOR)]


IndexCursor = Annotated[str, Field(pattern=r"^[0-9]{1,9}$", description=_CURSOR)]


class Page(BaseModel, Generic[T]):
    """`{"items": […], "next_cursor": null}`."""

    items: list[T]
    next_cursor: str | None = Field(
        None, description="Send it as `cursor` for the next page; null on the last page."
    )

    @classmethod
    def of(cls, items: Sequence[T], limit: int, cursor: str) -> Self:
        """The items of a short list from the index on that the cursor is."""
        start = int(cursor)
        end = start + limit
        return cls(items=list(items[start:end]), next_cursor=str(end) if end < len(items) else None)


def page_json(items: Iterable[str], next_cursor: str | None) -> str:
    """The JSON of a page whose items are JSON already."""
    return f'{{"items":[{",".join(items)}],"next_cursor":{json.dumps(next_cursor)}}}'

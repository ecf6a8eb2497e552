"""How a list is answered: one page, and the way to the next."""

from typing import Generic, TypeVar

from pydantic import BaseModel, Field

T = TypeVar("T")


class Page(BaseModel, Generic[T]):
    """`{"items": […], "next_cursor": null}`."""

    items: list[T]
    next_cursor: str | None = Field(
        None, description="Send it as `cursor` for the next page; null on the last."
    )

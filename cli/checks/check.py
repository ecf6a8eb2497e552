"""The outcome of one look."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Check:
    """One line of `opsin doctor`.

    Attributes:
        name: What was looked at.
        state: ok; warn: works, but; fail: will not work as it is.
        detail: What was found.
        help: What to do about it; empty where nothing need be done.
    """

    name: str
    state: Literal["ok", "warn", "fail"]
    detail: str
    help: str = ""

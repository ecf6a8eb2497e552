"""The result of one check."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Check:
    """One line of `opsin doctor`.

    Attributes:
        name: What was checked.
        state: ok; warn: works, with a drawback; fail: will not work.
        detail: The finding.
        help: What to do about it; empty if nothing.
    """

    name: str
    state: Literal["ok", "warn", "fail"]
    detail: str
    help: str = ""

"""The job behind `/v1/filters`: the patterns that excite filters most."""

from typing import Any

from contracts.settings import Settings
from contracts.work import Work


def run(work: Work, settings: Settings) -> dict[str, Any]:
    """Do it; the artifact is `filters.png`."""
    raise NotImplementedError

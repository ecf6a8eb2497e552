"""Which pages of other sites may call the API: the origins of OPSIN_CORS_ORIGINS."""

import re
from collections.abc import Iterable

ANY_ORIGIN = "*"


def origin_pattern(origins: Iterable[str]) -> re.Pattern[str] | None:
    """Matches the named origins; None if there are none.

    `https://*.example.org` stands for every subdomain, `http://localhost:*` for every port.
    """
    patterns = [_pattern(origin) for origin in origins if origin != ANY_ORIGIN]
    return re.compile("|".join(patterns)) if patterns else None


def _pattern(origin: str) -> str:
    pattern = re.escape(origin).replace(r"://\*\.", "://(?:[a-z0-9-]+\\.)+")
    return re.sub(r":\\\*$", r"(?::[0-9]{1,5})?", pattern)

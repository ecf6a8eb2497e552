"""Under which path a proxy offers the API, for the URLs in responses.

A proxy may offer the API at `https://example.org/opsin/` and pass `/opsin/v1/jobs` on as
`/v1/jobs`. The URLs that a response names must then begin with `/opsin`.
"""

import re
from contextvars import ContextVar

PREFIX: ContextVar[str] = ContextVar("PREFIX", default="")
"""Of the request in progress, without a slash at the end; empty if there is none."""


def public_path(path: str) -> str:
    """A path of the API as the client of the request in progress has to write it."""
    return PREFIX.get() + path


_MAX_LENGTH = 256
# Segments without `.` and `..`: the prefix becomes part of URLs.
_PREFIX = re.compile(r"(?:/(?!\.\.?(?:/|$))[A-Za-z0-9._~-]+)*")
# Removing these would change the meaning of our own paths.
_OWN = ("/v1", "/v2", "/docs", "/_console")


def is_prefix(path: str) -> bool:
    """Whether the API can be offered under a path: `/a/b`, or nothing."""
    if len(path) > _MAX_LENGTH or not _PREFIX.fullmatch(path):
        return False
    return not any(path == own or path.startswith(own + "/") for own in _OWN)

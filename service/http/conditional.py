"""Conditional requests and content negotiation (RFC 9110, sections 12.5.3 and 13)."""

import re

from starlette.datastructures import Headers

from service.http.lists import items_of

_ETAG = re.compile(r'(?:W/)?"[^"]*"')


def etag_matches(headers: Headers, etag: str) -> bool:
    """Whether the client has the current version, by its If-None-Match header.

    Args:
        headers: Of the request.
        etag: Of the current version, with its quotes. The comparison is weak.
    """
    sent = ",".join(headers.getlist("If-None-Match"))
    if sent.strip() == "*":
        return True
    return any(found.removeprefix("W/") == etag for found in _ETAG.findall(sent))


def is_gzip_accepted(headers: Headers) -> bool:
    """Whether the client accepts a response in gzip, by its Accept-Encoding header."""
    qualities: dict[str, bool] = {}
    for item in items_of(headers.getlist("Accept-Encoding")):
        name, _, weight = item.partition(";")
        refused = re.fullmatch(r"q=0(?:\.0*)?", weight.replace(" ", "")) is not None
        qualities[name.strip()] = not refused
    return qualities.get("gzip", qualities.get("*", False))

"""Request headers that say how a client wants its response: Accept, Prefer, Idempotency-Key."""

import hashlib
from typing import Annotated, Literal

from fastapi import Depends, Header, Request

from service.auth.principal import quota_key
from service.http.lists import items_of

MediaType = Literal["image/png", "application/json"]
_MEDIA_TYPES: tuple[MediaType, ...] = ("image/png", "application/json")
RESPOND_ASYNC = "respond-async"


def preferred_type(accept: str) -> MediaType:
    """The media type that an Accept header prefers (RFC 9110, 12.5.1).

    The quality decides, then how exactly the type is named, then the order of `_MEDIA_TYPES`. A
    header that accepts neither is ignored, as the standard permits: the response is a PNG.
    """
    ranges = [_media_range(item) for item in items_of([accept])]

    def rank(media_type: MediaType) -> tuple[float, int]:
        names = ("*/*", media_type.partition("/")[0] + "/*", media_type)
        matches = [(names.index(name), quality) for name, quality in ranges if name in names]
        specificity, quality = max(matches, default=(0, 0.0))
        return quality, specificity

    best = max(_MEDIA_TYPES, key=rank)
    return best if rank(best)[0] > 0 else _MEDIA_TYPES[0]


def _media_range(text: str) -> tuple[str, float]:
    """Name and quality; the quality is 0 if it is malformed."""
    name, *parameters = (part.strip().lower() for part in text.split(";"))
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            try:
                quality = float(value)
            except ValueError:
                return name, 0.0
            return name, quality if quality > 0 else 0.0  # also for NaN
    return name, 1.0


async def _accepted_type(
    request: Request,
    accept: Annotated[
        str | None,
        Header(
            description="`image/png` (the default) or `application/json`.",
            examples=["application/json"],
        ),
    ] = None,
) -> MediaType:
    del accept  # declared for the documentation; every Accept header counts
    return preferred_type(",".join(request.headers.getlist("Accept")))


AcceptedType = Annotated[MediaType, Depends(_accepted_type)]


async def _prefers_async(
    request: Request,
    prefer: Annotated[
        str | None,
        Header(
            alias="Prefer",
            description="With `respond-async` the response is 202 and a job instead of the "
            "result. Other preferences are ignored.",
            examples=[RESPOND_ASYNC],
        ),
    ] = None,
) -> bool:
    del prefer  # declared for the documentation; every Prefer header counts
    preferences = items_of(request.headers.getlist("Prefer"))
    return any(item.partition(";")[0].strip() == RESPOND_ASYNC for item in preferences)


PrefersAsync = Annotated[bool, Depends(_prefers_async)]


def _key_header(description: str) -> object:
    return Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description=description,
    )


_JOB_KEY = _key_header(
    "With `Prefer: respond-async`: repeating a request with the same key within 24 hours returns "
    "the first job; a different request with that key is a 409."
)
_CREATE_KEY = _key_header(
    "Repeating a request with the same key within 24 hours returns the first response and creates "
    "nothing new; a different request with that key is a 409."
)


async def _job_key(request: Request, sent: Annotated[str | None, _JOB_KEY] = None) -> str | None:
    return _stored_key(request, sent)


async def _create_key(
    request: Request, sent: Annotated[str | None, _CREATE_KEY] = None
) -> str | None:
    return _stored_key(request, sent)


def _stored_key(request: Request, sent: str | None) -> str | None:
    """The header as it is stored, so that the key of one client means nothing to another."""
    if sent is None:
        return None
    return f"{quota_key(request.scope)}:{hashlib.sha256(sent.encode()).hexdigest()}"


JobKeyHeader = Annotated[str | None, Depends(_job_key)]
CreateKeyHeader = Annotated[str | None, Depends(_create_key)]

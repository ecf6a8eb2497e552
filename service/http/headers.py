"""Which of two answers a client would rather have (RFC 9110, 12.5.1).

The request headers that say how the client wants its answer (RFC 7240, Idempotency-Key).
"""

import hashlib
from typing import Annotated, Literal

from fastapi import Depends, Header, Request

from service.auth.principal import OPEN, caller_of

Kind = Literal["image/png", "application/json"]
_KINDS: tuple[Kind, ...] = ("image/png", "application/json")


def preferred(accept: str) -> Kind:
    """The kind that a header prefers: by weight, then by how exactly it is named, then a picture.

    A header that takes neither is disregarded, as the standard permits: the picture is answered.
    """
    ranges = [_range(one) for one in accept.split(",")]
    best: tuple[float, int] = (0.0, 0)
    chosen = _KINDS[0]
    for kind in _KINDS:
        exact = max(
            (
                (exactness, weight)
                for name, weight in ranges
                for exactness in (_exactness(name, kind),)
                if exactness
            ),
            default=(0, 0.0),
        )
        rank = (exact[1], exact[0])
        if rank > best and rank[0] > 0:
            best, chosen = rank, kind
    return chosen


def _range(text: str) -> tuple[str, float]:
    name, *parameters = (part.strip().lower() for part in text.split(";"))
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            try:
                return name, float(value)
            except ValueError:
                return name, 0.0
    return name, 1.0


def _exactness(name: str, kind: Kind) -> int:
    family = kind.partition("/")[0] + "/*"
    return {kind: 3, family: 2, "*/*": 1}.get(name, 0)


async def accepted(
    request: Request,
    accept: Annotated[
        str | None,
        Header(
            description="`image/png`, the default, or `application/json`.",
            examples=["application/json"],
        ),
    ] = None,
) -> Kind:
    """What this client would rather have; every `Accept` header counts."""
    del accept  # declared for the documentation
    return preferred(",".join(request.headers.getlist("Accept")))


Accepted = Annotated[Kind, Depends(accepted)]


RESPOND_ASYNC = "respond-async"


async def prefers_async(
    request: Request,
    prefer: Annotated[
        str | None,
        Header(
            alias="Prefer",
            description="`respond-async` answers 202 with a job in place of the result. "
            "Other preferences are ignored.",
            examples=[RESPOND_ASYNC],
        ),
    ] = None,
) -> bool:
    """Whether the client would rather have a job; every `Prefer` header counts."""
    del prefer  # declared for the documentation
    wishes = ",".join(request.headers.getlist("Prefer")).lower().split(",")
    return any(wish.partition(";")[0].strip() == RESPOND_ASYNC for wish in wishes)


Deferred = Annotated[bool, Depends(prefers_async)]
_Deferring = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="With `Prefer: respond-async`: the same key and request within 24 hours "
        "answer with the first job; another request with it is a 409.",
    ),
]
_Creating = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="The same key and request within 24 hours answer as the first did and make "
        "nothing new; another request with it is a 409.",
    ),
]


async def _to_defer(request: Request, sent: _Deferring = None) -> str | None:
    return _own(request, sent)


async def _to_create(request: Request, sent: _Creating = None) -> str | None:
    return _own(request, sent)


def _own(request: Request, sent: str | None) -> str | None:
    """The header as it is stored: that of one client means nothing to another."""
    caller = caller_of(request)
    if sent is None or caller is OPEN:
        return sent
    return f"{caller.id}:{hashlib.sha256(sent.encode()).hexdigest()}"


IdempotencyKey = Annotated[str | None, Depends(_to_defer)]
CreationKey = Annotated[str | None, Depends(_to_create)]

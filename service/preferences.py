"""The request headers that say how the client wants its answer (RFC 7240, Idempotency-Key)."""

import hashlib
from typing import Annotated

from fastapi import Depends, Header, Request

from service.caller import OPEN, caller_of

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

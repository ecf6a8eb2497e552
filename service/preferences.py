"""The request headers that say how the client wants its answer (RFC 7240, Idempotency-Key)."""

from typing import Annotated

from fastapi import Depends, Header, Request

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
IdempotencyKey = Annotated[
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
CreationKey = Annotated[
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

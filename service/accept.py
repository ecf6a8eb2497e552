"""Which of two answers a client would rather have (RFC 9110, 12.5.1)."""

from typing import Annotated, Literal

from fastapi import Depends, Header, Request

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

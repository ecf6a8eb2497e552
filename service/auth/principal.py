"""Who sends a request, once that is known."""

from dataclasses import dataclass

from fastapi import Request
from starlette.types import Scope as Connection

from contracts.errors import Forbidden
from contracts.keys import SCOPES, Scope
from database.audit import By


@dataclass(frozen=True, slots=True)
class Caller:
    """One who may do something.

    Attributes:
        id: A key's id; `bootstrap` for OPSIN_API_KEY, `open` where no key is needed.
        scopes: What it may do.
        rate_per_minute: Most requests in a minute; None for any number.
        expires: When it ends, in seconds since 1970; None for never.
    """

    id: str
    scopes: frozenset[Scope]
    rate_per_minute: int | None = None
    expires: float | None = None

    def may(self, scope: Scope) -> bool:
        """Whether it has the scope; `admin` has all."""
        return scope in self.scopes or "admin" in self.scopes

    def require(self, *scopes: Scope) -> None:
        """Check that it has one of them.

        Raises:
            Forbidden: It has none; the message names what is missing.
        """
        if not any(self.may(scope) for scope in scopes):
            needed = " or ".join(f"`{scope}`" for scope in scopes)
            raise Forbidden(f"This needs a key with the scope {needed}.")


OPEN = Caller("open", frozenset(SCOPES))
BOOTSTRAP = Caller("bootstrap", frozenset(SCOPES))


def caller_of(request: Request) -> Caller:
    """Who sends the request, as a dependency of a route."""
    caller = request.state.caller
    if not isinstance(caller, Caller):
        raise TypeError("the request passed no key check")
    return caller


def payer_of(scope: Connection) -> str:
    """To whom it is charged what a request holds: its key, or where it has none its address."""
    caller = scope.get("state", {}).get("caller")
    if isinstance(caller, Caller) and caller is not OPEN:
        return caller.id
    client = scope.get("client")
    return f"address {client[0]}" if client else "address"


def by(request: Request) -> By:
    """The caller as the audit log names it."""
    return By(caller_of(request).id, request.state.request_id)

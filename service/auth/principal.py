"""The principal: who sends a request, known once it is authenticated."""

from dataclasses import dataclass

from fastapi import Request
from starlette.types import Scope as AsgiScope

from contracts.errors import Forbidden
from contracts.keys import SCOPES, Scope
from database.audit import Actor


@dataclass(frozen=True, slots=True)
class Principal:
    """Who may do something.

    Attributes:
        id: A key's id; `bootstrap` for OPSIN_API_KEY, `open` where no key is needed.
        scopes: What it may do.
        rate_per_minute: Maximum requests per minute; None for no limit.
        expires: Seconds since 1970; None for never.
    """

    id: str
    scopes: frozenset[Scope]
    rate_per_minute: int | None = None
    expires: float | None = None

    def may(self, scope: Scope) -> bool:
        """Whether it has the scope; `admin` includes all others."""
        return scope in self.scopes or "admin" in self.scopes

    def require(self, *scopes: Scope) -> None:
        """Check that it has at least one of the scopes.

        Raises:
            Forbidden: It has none; the message names the missing ones.
        """
        if not any(self.may(scope) for scope in scopes):
            needed = " or ".join(f"`{scope}`" for scope in scopes)
            raise Forbidden(f"This needs a key with the scope {needed}.")


OPEN = Principal("open", frozenset(SCOPES))
BOOTSTRAP = Principal("bootstrap", frozenset(SCOPES))


def principal_of(request: Request) -> Principal:
    """Who sends the request."""
    principal = request.state.principal
    if not isinstance(principal, Principal):
        raise TypeError("the request was not authenticated")
    return principal


def quota_key(scope: AsgiScope) -> str:
    """Under which name a request's uploads and streams count: its key or, without one, its address.

    Everyone on an open service is the same principal, so the address is what tells clients apart.
    """
    principal = scope.get("state", {}).get("principal")
    if isinstance(principal, Principal) and principal is not OPEN:
        return principal.id
    client = scope.get("client")
    return f"address {client[0]}" if client else "address"


def actor_of(request: Request) -> Actor:
    """The principal as the audit log names it."""
    return Actor(principal_of(request).id, request.state.request_id)

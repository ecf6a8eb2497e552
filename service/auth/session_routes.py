"""`/v1/session`: sign the console in with a key, and out again."""

from typing import Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from contracts.errors import Conflict
from contracts.keys import SCOPES, Scope
from service.auth.principal import OPEN, Principal, principal_of
from service.auth.sessions import Session, session_cookie
from service.dependencies import Services, ServicesDep
from service.http.errors import problem_responses
from service.openapi import examples

router = APIRouter(prefix="/v1/session", tags=["Keys"])


class SessionInfo(BaseModel):
    """Who the sender of a request is, and what it may do."""

    signed_in_by: Literal["session", "key", "none"] = Field(
        description="`none` where no key is needed."
    )
    key_id: str | None = Field(description="Of the key that the session belongs to.")
    scopes: list[Scope] = Field(description="What it may do.")
    csrf_token: str | None = Field(
        None,
        description="The header `X-CSRF-Token` of requests that change something; null without a "
        "session.",
    )
    idle_seconds: int | None = Field(
        None, description="A session that is not used for this long ends."
    )


_EXAMPLE = {
    "signed_in_by": "session",
    "key_id": examples.KEY["id"],
    "scopes": ["infer", "train"],
    "csrf_token": "9c1d5b8f0f4a4f6f8f3c2a6b7d1e0f9a",
    "idle_seconds": 1800,
}


@router.get(
    "",
    operation_id="get_session",
    summary="Who am I?",
    responses={
        200: examples.json_response("The scopes of the sender.", _EXAMPLE),
        **problem_responses("dependency_unavailable"),
    },
)
async def get_session(request: Request, services: ServicesDep) -> SessionInfo:
    """What the key, or the session, of this request may do."""
    return _info(principal_of(request), _session_of(request), services)


@router.post(
    "",
    operation_id="create_session",
    summary="Sign in",
    status_code=201,
    responses={
        201: examples.json_response("A session, whose cookie is set.", _EXAMPLE),
        **problem_responses("conflict", "dependency_unavailable"),
    },
)
async def create_session(
    request: Request, response: Response, services: ServicesDep
) -> SessionInfo:
    """Send a key in a header; a browser then needs only the cookie that the response sets.

    Programs have no use for this: they send their key with every request.
    """
    principal = principal_of(request)
    if principal is OPEN:
        raise Conflict("This service needs no key at present, so there is nothing to sign in to.")
    if _session_of(request) is not None:
        # Or a copied cookie would renew itself past its end, and outlive the sign-out.
        raise Conflict("A session cannot begin another one. Send the key, as for the first.")
    session = await services.sessions.create(principal)
    response.headers["Set-Cookie"] = session_cookie(request.scope, session.token)
    return _info(principal, session, services)


@router.delete(
    "",
    operation_id="delete_session",
    summary="Sign out",
    status_code=204,
    responses=problem_responses("dependency_unavailable"),
)
async def delete_session(request: Request, services: ServicesDep) -> Response:
    """End the session of this request; does nothing without one."""
    session = _session_of(request)
    if session is not None:
        await services.sessions.end(session)
    return Response(status_code=204, headers={"Set-Cookie": session_cookie(request.scope, None)})


def _session_of(request: Request) -> Session | None:
    session = getattr(request.state, "session", None)
    return session if isinstance(session, Session) else None


def _info(principal: Principal, session: Session | None, services: Services) -> SessionInfo:
    scopes = [scope for scope in SCOPES if principal.may(scope)]
    if principal is OPEN:
        return SessionInfo(signed_in_by="none", key_id=None, scopes=scopes)
    if session is None:
        return SessionInfo(signed_in_by="key", key_id=principal.id, scopes=scopes)
    return SessionInfo(
        signed_in_by="session",
        key_id=principal.id,
        scopes=scopes,
        csrf_token=session.csrf_token,
        idle_seconds=services.sessions.idle_seconds,
    )

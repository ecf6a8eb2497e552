"""`/v1/keys`: create, list, rotate and revoke API keys."""

import hashlib
from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict

from contracts.keys import KEY_ID, KeyInfo, MadeKey, NewKey, Rotation
from contracts.pages import Page, PageLimit, RowCursor
from database.idempotency import IdempotencyKey
from service.auth.principal import actor_of
from service.dependencies import ServicesDep
from service.http.errors import problem_responses
from service.http.headers import CreateKeyHeader
from service.openapi import examples
from service.threads import run_in_threadpool

router = APIRouter(prefix="/v1/keys", tags=["Keys"])

KeyId = Annotated[
    str, Path(description="A key's id.", pattern=KEY_ID, examples=[examples.KEY["id"]])
]
_FIRST = (
    "This was the first key: from now on every request needs one. Only a key with the scope admin "
    "can create others; on the server, `opsin keys cli` makes one for its commands and `opsin keys "
    "open` lets that machine in without a key again."
)
_MISSING = problem_responses("not_found", "validation_error", "dependency_unavailable")


class KeysQuery(BaseModel):
    """The page."""

    model_config = ConfigDict(extra="forbid")

    limit: PageLimit = 50
    cursor: RowCursor = None


@router.post(
    "",
    operation_id="create_key",
    summary="Create a key",
    status_code=201,
    responses={
        201: examples.json_response("The key, shown only this once.", examples.MADE_KEY),
        **problem_responses("validation_error", "idempotency_conflict", "dependency_unavailable"),
    },
)
async def create_key(
    *, request: Request, body: NewKey, key: CreateKeyHeader = None, services: ServicesDep
) -> MadeKey:
    """Only a hash is stored: note the key, it is never shown again."""
    digest = hashlib.sha256(body.model_dump_json().encode()).hexdigest()
    idempotency = None if key is None else IdempotencyKey(key, "key", digest)
    was_open = services.key_cache.is_open
    made = await run_in_threadpool(
        services.keys.create, body, actor=actor_of(request), idempotency=idempotency
    )
    await services.changes.announce("keys")
    return made.model_copy(update={"note": _FIRST}) if was_open else made


@router.get(
    "",
    operation_id="list_keys",
    summary="List keys",
    responses={
        200: examples.json_response(
            "A page of keys, newest first.", {"items": [examples.KEY], "next_cursor": None}
        ),
        **problem_responses("validation_error", "dependency_unavailable"),
    },
)
async def list_keys(query: Annotated[KeysQuery, Query()], services: ServicesDep) -> Page[KeyInfo]:
    """All keys, including revoked and expired ones, without their secrets."""
    return await run_in_threadpool(services.keys.list, limit=query.limit, cursor=query.cursor)


@router.post(
    "/{key_id}/rotate",
    operation_id="rotate_key",
    summary="Replace a key",
    status_code=201,
    responses={
        201: examples.json_response("The new key, shown only this once.", examples.MADE_KEY),
        **_MISSING,
        **problem_responses("conflict", "idempotency_conflict"),
    },
)
async def rotate_key(
    *,
    request: Request,
    key_id: KeyId,
    body: Rotation,
    key: CreateKeyHeader = None,
    services: ServicesDep,
) -> MadeKey:
    """The new key has the same scopes; the old one remains valid for `grace_seconds`."""
    grace = timedelta(seconds=body.grace_seconds)
    digest = hashlib.sha256(f"{key_id} {body.model_dump_json()}".encode()).hexdigest()
    idempotency = None if key is None else IdempotencyKey(key, "key rotation", digest)
    made = await run_in_threadpool(
        services.keys.rotate, key_id, grace, actor=actor_of(request), idempotency=idempotency
    )
    await services.changes.announce("keys")
    return made


@router.delete(
    "/{key_id}",
    operation_id="revoke_key",
    summary="Revoke a key",
    status_code=204,
    responses=_MISSING,
)
async def revoke_key(request: Request, key_id: KeyId, services: ServicesDep) -> Response:
    """Every API process refuses the key from now on."""
    await run_in_threadpool(services.keys.revoke, key_id, actor=actor_of(request))
    await services.changes.announce("keys")
    return Response(status_code=204)

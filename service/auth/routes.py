"""`/v1/keys`: who may use the service."""

import hashlib
from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, Field

from contracts.keys import KEY_ID, KeyInfo, MadeKey, NewKey, Rotation
from contracts.pages import Page
from database.idempotency import IdempotencyKey as Asked
from service.auth.principal import by
from service.dependencies import ServicesDep
from service.http import examples
from service.http.errors import problem_responses
from service.http.headers import CreationKey

router = APIRouter(prefix="/v1/keys", tags=["Keys"])

KeyId = Annotated[
    str, Path(description="A key's id.", pattern=KEY_ID, examples=[examples.KEY["id"]])
]
_MISSING = problem_responses("not_found", "validation_error", "dependency_unavailable")


class KeysQuery(BaseModel):
    """Which page."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(50, ge=1, le=200, description="Keys a page.")
    cursor: str | None = Field(
        None, pattern=r"^[0-9]{1,9}$", description="`next_cursor` of the page before."
    )


@router.post(
    "",
    operation_id="create_key",
    summary="Make a key",
    status_code=201,
    responses={
        201: examples.shown("The key, shown this once.", examples.MADE_KEY),
        **problem_responses("validation_error", "idempotency_conflict", "dependency_unavailable"),
    },
)
async def create_key(
    *, request: Request, body: NewKey, key: CreationKey = None, services: ServicesDep
) -> MadeKey:
    """Only its hash is kept: write the key down, it is never shown again."""
    digest = hashlib.sha256(body.model_dump_json().encode()).hexdigest()
    asked = None if key is None else Asked(key, "key", digest)
    made = await run_in_threadpool(services.keys.create, body, by=by(request), asked=asked)
    await services.keyring.catch_up()
    return made


@router.get(
    "",
    operation_id="list_keys",
    summary="List keys",
    responses={
        200: examples.shown(
            "A page of keys, newest first.", {"items": [examples.KEY], "next_cursor": None}
        ),
        **problem_responses("validation_error", "dependency_unavailable"),
    },
)
async def list_keys(query: Annotated[KeysQuery, Query()], services: ServicesDep) -> Page[KeyInfo]:
    """All that were ever made, without their secrets; revoked and expired ones too."""
    return await run_in_threadpool(services.keys.list, limit=query.limit, cursor=query.cursor)


@router.post(
    "/{key_id}/rotate",
    operation_id="rotate_key",
    summary="Replace a key by a new one",
    status_code=201,
    responses={
        201: examples.shown("The new key, shown this once.", examples.MADE_KEY),
        **_MISSING,
        **problem_responses("conflict", "idempotency_conflict"),
    },
)
async def rotate_key(
    *,
    request: Request,
    key_id: KeyId,
    body: Rotation,
    key: CreationKey = None,
    services: ServicesDep,
) -> MadeKey:
    """The new key may do what the old one may, which works on for `grace_seconds`."""
    grace = timedelta(seconds=body.grace_seconds)
    digest = hashlib.sha256(f"{key_id} {body.model_dump_json()}".encode()).hexdigest()
    asked = None if key is None else Asked(key, "key rotation", digest)
    made = await run_in_threadpool(services.keys.rotate, key_id, grace, by=by(request), asked=asked)
    await services.keyring.catch_up()
    return made


@router.delete(
    "/{key_id}",
    operation_id="revoke_key",
    summary="Revoke a key",
    status_code=204,
    responses=_MISSING,
)
async def revoke_key(request: Request, key_id: KeyId, services: ServicesDep) -> Response:
    """From now on this process refuses it, and within two seconds all others do."""
    await run_in_threadpool(services.keys.revoke, key_id, by=by(request))
    await services.keyring.catch_up()
    return Response(status_code=204)

"""`/v1/audit`: who did what."""

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, Field

from contracts.audit import Action, AuditEntry
from contracts.pages import Page
from service.dependencies import ServicesDep
from service.http import examples
from service.http.errors import problem_responses

router = APIRouter(prefix="/v1/audit", tags=["Keys"])


class AuditQuery(BaseModel):
    """Which lines."""

    model_config = ConfigDict(extra="forbid")

    action: Action | None = Field(None, description="Only what was done so.")
    limit: int = Field(50, ge=1, le=200, description="Lines a page.")
    cursor: str | None = Field(
        None, pattern=r"^[0-9]{1,9}$", description="`next_cursor` of the page before."
    )


@router.get(
    "",
    operation_id="list_audit",
    summary="Read the audit log",
    responses={
        200: examples.shown(
            "A page of it, newest first.", {"items": [examples.AUDIT_ENTRY], "next_cursor": None}
        ),
        **problem_responses("validation_error", "dependency_unavailable"),
    },
)
async def list_audit(
    query: Annotated[AuditQuery, Query()], services: ServicesDep
) -> Page[AuditEntry]:
    """Who made, rotated and revoked keys, promoted and deleted versions, and deleted data."""
    return await run_in_threadpool(
        services.audit.list, action=query.action, limit=query.limit, cursor=query.cursor
    )

"""`/v1/audit`: the audit log."""

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from contracts.audit import Action, AuditEntry
from contracts.pages import Page, PageLimit, RowCursor
from service.dependencies import ServicesDep
from service.http.errors import problem_responses
from service.openapi import examples
from service.threads import run_in_threadpool

router = APIRouter(prefix="/v1/audit", tags=["Keys"])


class AuditQuery(BaseModel):
    """Filter and page of the list."""

    model_config = ConfigDict(extra="forbid")

    action: Action | None = Field(None, description="Only lines with this action.")
    limit: PageLimit = 50
    cursor: RowCursor = None


@router.get(
    "",
    operation_id="list_audit",
    summary="Read the audit log",
    responses={
        200: examples.json_response(
            "A page of lines, newest first.", {"items": [examples.AUDIT_ENTRY], "next_cursor": None}
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

"""Writes to the audit log what a request has done outside the database.

What is done is done: where the line cannot be written the request still succeeds, and the process
log, which goes elsewhere, holds the line in its place.
"""

import structlog
from fastapi import Request
from fastapi.concurrency import run_in_threadpool

from contracts.audit import Action
from contracts.errors import Unavailable
from service.auth.principal import by
from service.dependencies import Services

log = structlog.get_logger()


async def done(request: Request, services: Services, action: Action, subject: str) -> None:
    """Say that the sender of `request` did that."""
    who = by(request)
    try:
        await run_in_threadpool(services.audit.write, who, action, subject)
    except Unavailable:
        log.error("audit_not_written", actor=who.actor, action=action, subject=subject)  # noqa: TRY400

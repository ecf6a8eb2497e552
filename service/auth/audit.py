"""Records in the audit log what a request has done outside the database.

If the line cannot be written, the request succeeds all the same: its effect cannot be undone. The
process log, which is stored elsewhere, then holds the line.
"""

import structlog
from fastapi import Request

from contracts.audit import Action
from contracts.errors import Unavailable
from service.auth.principal import actor_of
from service.dependencies import Services
from service.threads import run_in_threadpool

log = structlog.get_logger()


async def record(request: Request, services: Services, action: Action, subject: str) -> None:
    """Record that the sender of `request` did `action` to `subject`."""
    actor = actor_of(request)
    try:
        await run_in_threadpool(services.audit.write, actor, action, subject)
    except Unavailable:
        log.error("audit_not_written", actor=actor.name, action=action, subject=subject)  # noqa: TRY400

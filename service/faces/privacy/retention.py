"""Erases subjects that were not used for too long, and says in public how long that is."""

from datetime import datetime
from functools import partial

import structlog

from contracts.errors import OpsinError, SubjectNotFound
from contracts.faces.consent import Policy
from database.audit import Actor
from database.faces.repositories import FaceRepositories
from service.dependencies import Services
from service.faces.privacy import erasure
from service.threads import run_in_threadpool

log = structlog.get_logger()

RETENTION = Actor("retention")
_ERASURES_PER_RUN = 50  # so that a wrong clock or number can be noticed before all are gone


async def run(services: Services) -> None:
    """Erase some of the subjects whose time is over, on the same way as a request.

    Raises:
        Unavailable: The database does not answer.
    """
    repositories = services.faces.repositories
    policy = await run_in_threadpool(repositories.policy.get)
    if policy.retention_days is None:
        return
    now = await run_in_threadpool(repositories.deletion_clock.now)
    find = partial(repositories.standings.unused, limit=_ERASURES_PER_RUN, now=now)
    subject_ids = await run_in_threadpool(find, policy.retention_days)
    erased = []
    for one in subject_ids:
        async with erasure.rest_after():
            if await _erase(services, one, now):
                erased.append(one)
    if erased:
        await services.faces.finish_erasures(erased)


async def _erase(services: Services, subject_id: str, now: datetime) -> bool:
    """Erase a subject up to the last step; returns whether that succeeded.

    The others of the run may have taken minutes: meanwhile, the person may have logged in, or the
    operator have corrected the number.
    """
    try:
        days = await run_in_threadpool(_days_unused, services.faces.repositories, subject_id, now)
        if days is None:
            return False
        await erasure.begin(services, subject_id)
    except SubjectNotFound:
        return False  # another process was faster
    except (OpsinError, OSError, ValueError) as error:  # such as damaged aliases
        log.warning("erasure_unfinished", subject=subject_id, error=type(error).__name__)
        return False
    log.info("subject_erased", subject=subject_id, unused_days=days)
    await run_in_threadpool(services.audit.write, RETENTION, "subject_erased", subject_id)
    return True


def _days_unused(repositories: FaceRepositories, subject_id: str, now: datetime) -> int | None:
    """The retention period in force, if it is over for the subject."""
    days = repositories.policy.get().retention_days
    if days is None:
        return None
    unused = repositories.standings.unused(days, limit=1, only=subject_id, now=now)
    return days if unused else None


def retention_text(policy: Policy) -> str:
    """The public text on how long faces are kept."""
    if policy.retention_text is not None:
        return policy.retention_text
    if policy.retention_days is None:
        kept = "They are kept until the person, or whoever operates this service, has them erased."
    else:
        kept = (
            f"A person who has not used face recognition here for {policy.retention_days} days is "
            "erased automatically."
        )
    return (
        "This service recognizes people by their faces. For each enrolled person it keeps "
        "encrypted numbers that describe the face, and encrypted images if the person's record "
        f"allows it.\n\n{kept} An erasure destroys the numbers, the images and the key that alone "
        "decrypts them, and every model that was trained on the images.\n\nA record that a person "
        "was enrolled and erased, and the log of decisions, are kept for a limited time without "
        "images, numbers or names.\n"
    )

"""A challenge for somebody who is there, and for a client that asks in measure."""

from fastapi import Request
from fastapi.concurrency import run_in_threadpool

from contracts.liveness import Challenge, NewChallenge
from service.services import Services


async def challenge(request: Request, asked: NewChallenge, services: Services) -> Challenge:
    """Make one.

    Args:
        request: Whose address tells clients apart.
        asked: What it is to be for.
        services: What does the work.

    Raises:
        SubjectNotFound: There is no such subject.
        RateLimited: The client was given too many of late.
        Unavailable: Redis or the database does not answer.
    """
    await run_in_threadpool(services.faces.kept.subjects.get, asked.subject_id)
    address = request.client.host if request.client else "local"
    return await services.faces.challenges.create(asked, address)

"""All that the routes of faces stand on, opened once with the other services."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial

import structlog
from fastapi.concurrency import run_in_threadpool
from redis.asyncio import Redis
from redis.exceptions import RedisError
from sqlalchemy import Engine

from contracts import names
from contracts.errors import Unavailable
from contracts.settings import Settings
from contracts.subjects import Erased, FaceSearch, NewEvent, Threshold
from database.faces import Faces
from database.gallery import Gallery
from database.job_files import JobFiles
from database.scrubbing import scrub
from database.vector_search import VectorSearch
from service.challenges import Challenges
from service.faces.lockout import Lockout
from service.faces.tokens import Tokens

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class FaceDesk:
    """The parts.

    Attributes:
        kept: What is in the database.
        search: Finds who is near.
        lockout: Who failed too often.
        tokens: What a login ends in.
        challenges: What is to be done before the camera.
        job_files: Where enrollments keep what they were given.
        redis: Whose log on the disk is rewritten after an erasure; None where there is none.
        scrub: Overwrites what the database's own log still holds of erased rows.
    """

    kept: Faces
    search: FaceSearch
    lockout: Lockout
    tokens: Tokens
    challenges: Challenges
    job_files: JobFiles
    redis: Redis | None
    scrub: Callable[[], bool]

    async def threshold(self) -> Threshold:
        """What is in force."""
        return await run_in_threadpool(self.kept.threshold.get)

    async def record(self, event: NewEvent) -> None:
        """Write a line of the audit."""
        await run_in_threadpool(self.kept.events.record, event)

    async def erase(self, subject_id: str) -> Erased:
        """Remove a subject, and every trace of it that we know of.

        The rows go first, and with them the key that alone opens all else; what follows may be
        done again by the next round of `tidy`.

        Raises:
            SubjectNotFound: There is none of that id.
            Unavailable: The database does not answer; nothing was removed.
        """
        erasure = await run_in_threadpool(self.kept.subjects.erase, subject_id)
        for job_id in erasure.jobs:
            await run_in_threadpool(self.job_files.remove, job_id)
        await run_in_threadpool(self.search.forget)
        await run_in_threadpool(self.scrub)
        await self._forget_in_redis(subject_id)
        return Erased(erased=erasure.counts)

    async def tidy(self) -> None:
        """Drop what other processes erased, and what killed ones left."""
        await run_in_threadpool(self.search.forget)

    async def _forget_in_redis(self, subject_id: str) -> None:
        """What is counted of it, and what passed through the queues and is still in the log.

        The lockout's mark comes first: what a worker writes after it is refused, see `SeenClips`.
        """
        try:
            await self.lockout.forget(subject_id)
            if self.redis is not None:
                await self.redis.delete(names.clips_seen(subject_id))
                await self.redis.bgrewriteaof()
        except (RedisError, OSError, Unavailable) as error:
            log.warning("redis_log_not_rewritten", error=type(error).__name__)


def open_desk(
    settings: Settings,
    engine: Engine,
    client: Redis,
    job_files: JobFiles,
    clock: Callable[[], datetime],
) -> FaceDesk:
    """The desk of this installation.

    Raises:
        ValueError: The keys are malformed, or their file is open to others.
        OSError: Their file cannot be read or made.
    """
    kept = Faces.of(settings, engine, clock)
    return FaceDesk(
        kept=kept,
        search=_search(settings, engine, kept),
        lockout=Lockout(client),
        tokens=Tokens(kept.token_keys, settings, clock),
        challenges=Challenges(client, clock),
        job_files=job_files,
        redis=client,
        scrub=partial(scrub, engine),
    )


def _search(settings: Settings, engine: Engine, kept: Faces) -> FaceSearch:
    if settings.face_search == "memory":
        return Gallery(kept.vectors)
    if engine.dialect.name != "postgresql":
        raise ValueError("OPSIN_FACE_SEARCH=pgvector needs a PostgreSQL as OPSIN_DATABASE_URL")
    search = VectorSearch(engine, kept.vectors, kept.sealer)
    search.prepare()
    return search

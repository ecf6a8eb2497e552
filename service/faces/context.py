"""All that the routes of faces stand on, opened once with the other services."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

import structlog
from fastapi.concurrency import run_in_threadpool
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError
from sqlalchemy import Engine

from contracts.errors import Unavailable
from contracts.faces.subjects import Erased, FaceSearch, NewEvent, Threshold
from contracts.queue import redis_keys
from contracts.settings import Settings
from database.faces.faces import Faces
from database.faces.gallery import Gallery
from database.faces.vector_search import VectorSearch
from database.jobs.files import JobFiles
from database.secure_delete import scrub
from service.faces.challenges import Challenges
from service.faces.lockout import Lockout
from service.faces.tokens import Tokens

log = structlog.get_logger()

_TRIES = 25
_PAUSE = 0.2  # seconds


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

    async def threshold(self, embedder: str | None) -> Threshold:
        """What decides on what that embedder made, see `Threshold.held_for`."""
        kept = await run_in_threadpool(self.kept.threshold.get)
        told = kept.held_for(embedder)
        if told.stale:
            log.warning("threshold_of_another_embedder", of=kept.embedder, in_force=embedder)
        return told

    async def record(self, event: NewEvent) -> None:
        """Write a line of the audit."""
        await run_in_threadpool(self.kept.events.record, event)

    async def erase(self, subject_id: str) -> Erased:
        """Remove a subject's record and all it opens; `finish` has to follow.

        The rows go first, and with them the key that alone opens all else.

        Raises:
            SubjectNotFound: There is none of that id, nor an erasure of it that is unfinished.
            Unavailable: The database does not answer; nothing was removed.
        """
        erasure = await run_in_threadpool(self.kept.subjects.erase, subject_id)
        await self._remove_jobs(erasure.jobs)
        await run_in_threadpool(self.search.forget)
        await run_in_threadpool(self.scrub)
        return Erased(erased=erasure.counts)

    async def erase_traces(self, subject_id: str) -> None:
        """Remove what was written of a subject in the database while it was erased.

        Raises:
            Unavailable: The database does not answer.
        """
        await self._remove_jobs(
            await run_in_threadpool(self.kept.subjects.erase_traces, subject_id)
        )

    async def finish(self, subject_ids: Sequence[str]) -> None:
        """Take what Redis holds of erased subjects, and its log; then the erasures are done.

        Where Redis does not answer, or is at its log for so long, they stay unfinished and are
        taken up again by the next round.
        """
        try:
            for subject_id in subject_ids:
                await self.lockout.forget(subject_id)
                if self.redis is not None:
                    await self.redis.delete(redis_keys.clips_seen(subject_id))
            if self.redis is not None:
                await _rewrite_log(self.redis)
        except (RedisError, OSError, Unavailable) as error:
            log.warning("erasure_unfinished", where="redis", error=type(error).__name__)
            return
        for subject_id in subject_ids:
            await run_in_threadpool(self.kept.erasures.finish, subject_id)

    async def tidy(self) -> None:
        """Drop what other processes erased from memory."""
        await run_in_threadpool(self.search.forget)

    async def _remove_jobs(self, job_ids: Sequence[str]) -> None:
        for job_id in job_ids:
            await run_in_threadpool(self.job_files.remove, job_id)


async def _rewrite_log(redis: Redis) -> None:
    """Let Redis write its log anew, without what is deleted.

    One that is being written already may hold it still: it began before. So this waits for its end.

    Raises:
        Unavailable: It takes too long.
        RedisError: Redis does not answer, or cannot do it.
    """
    for _ in range(_TRIES):
        try:
            await redis.bgrewriteaof()
        except ResponseError as error:
            if "in progress" not in str(error):
                raise
            await asyncio.sleep(_PAUSE)
        else:
            return
    raise Unavailable("The queue is busy with its log. Retry shortly.", retry_after=2)


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

"""Everything that the face routes use, opened once with the other services."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import get_args

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError
from sqlalchemy import Engine

from contracts.errors import DiskUnusable, Unavailable
from contracts.faces.liveness import Purpose
from contracts.faces.subjects import Erased, FaceSearch, NewEvent, Threshold
from contracts.queue import redis_keys
from contracts.settings import Settings
from database.crypto.keyed_hash import KeyedHash
from database.faces.face_events import FaceEvents
from database.faces.frames import Frames
from database.faces.privacy.erasures import Erasures
from database.faces.repositories import FaceRepositories
from database.faces.search.gallery import Gallery
from database.faces.search.vector_search import VectorSearch
from database.faces.subjects import Subjects
from database.faces.templates import Templates
from database.installation import home_id
from database.jobs.files import JobFiles
from database.secure_delete import purge_deleted_rows, rewrite_for_erasures
from models.store.staging import backup_copies
from service.faces.challenges import Challenges
from service.faces.locks.lockout import Lockout
from service.faces.tokens import Tokens
from service.queue.append_only_file import rewrite_append_only_file
from service.shared_check import SharedCheck
from service.threads import run_in_threadpool

log = structlog.get_logger()

_REWRITE_SECONDS = 20.0  # less than the deadline of a request, if it sends none


@dataclass(frozen=True, slots=True)
class FaceServices:
    """The services of the face routes.

    Attributes:
        search: Nearest-neighbor search among all templates.
        job_files: Where the uploads of enrollments are stored.
        redis: Whose append-only file is rewritten after an erasure; None if there is none.
        engine: The database, which is purged of deleted rows after an erasure.
        rewrites: Of PostgreSQL's tables; erasures that wait for one share the next.
        redis_rewrites: Of the append-only file, likewise.
    """

    repositories: FaceRepositories
    search: FaceSearch
    lockout: Lockout
    tokens: Tokens
    challenges: Challenges
    job_files: JobFiles
    redis: Redis | None
    engine: Engine
    rewrites: SharedCheck
    redis_rewrites: SharedCheck

    @property
    def subjects(self) -> Subjects:
        return self.repositories.subjects

    @property
    def templates(self) -> Templates:
        return self.repositories.templates

    @property
    def frames(self) -> Frames:
        return self.repositories.frames

    @property
    def events(self) -> FaceEvents:
        return self.repositories.events

    @property
    def erasures(self) -> Erasures:
        return self.repositories.erasures

    @property
    def keyed_hash(self) -> KeyedHash:
        return self.repositories.keyed_hash

    async def effective_threshold(self, embedder: str | None) -> Threshold:
        """The threshold to use for an embedder, see `Threshold.effective_for`."""
        stored = await run_in_threadpool(self.repositories.threshold.get)
        threshold = stored.effective_for(embedder)
        if threshold.stale:
            log.warning("threshold_of_another_embedder", of=stored.embedder, in_force=embedder)
        return threshold

    async def record(self, event: NewEvent) -> None:
        """Write an entry to the audit log."""
        await run_in_threadpool(self.events.record, event)

    async def refresh_search(self) -> None:
        """Drop from memory what other processes erased."""
        await run_in_threadpool(self.search.refresh)

    def has_no_copies(self) -> bool:
        """Whether no backup is running; blocks. What killed ones have left is removed.

        Raises:
            OSError: The disk does not answer.
            Unavailable: Another process has been removing such copies for half a minute.
        """
        return backup_copies(self.job_files.root).is_empty()

    def purge_deleted_rows(self) -> bool:
        """See `database.secure_delete`; blocks."""
        return purge_deleted_rows(self.engine)

    async def erase(self, subject_id: str) -> Erased:
        """Delete a subject and its files; the caller then calls `finish_erasures`.

        The rows go first, and with them the only key that decrypts the rest.

        Raises:
            SubjectNotFound: There is no such subject and no unfinished erasure of it.
            Unavailable: The database does not answer, and nothing was deleted; or the disk keeps
                files, and the erasure stays unfinished.
        """
        erasure = await run_in_threadpool(self.subjects.erase, subject_id)
        await self._remove_jobs(erasure.jobs)
        await self.refresh_search()
        return Erased(erased=erasure.counts)

    async def erase_traces(self, subject_id: str) -> None:
        """Delete what was written to the database about a subject during its erasure.

        Raises:
            Unavailable: The database does not answer.
        """
        await self._remove_jobs(await run_in_threadpool(self.subjects.erase_traces, subject_id))

    async def finish_erasures(
        self, subject_ids: Sequence[str], *, redis_seconds: float | None = None
    ) -> None:
        """Delete what Redis and its append-only file hold of erased subjects, then finish.

        If the home is missing, a backup is running, which has a copy of the people, the database's
        files still hold deleted rows, their turn to be rewritten does not come in time, Redis does
        not answer, or it keeps rewriting its file for too long, the erasures stay unfinished and
        the next periodic run resumes them.

        Args:
            redis_seconds: How long to wait for the rewrite of that file, if not to its end.
        """
        if home_id(self.job_files.root.parent) is None:
            log.warning("erasure_unfinished", where="home")
            return
        if not await self._has_no_copies():
            log.warning("erasure_unfinished", where="backup")
            return
        if not await self._purge_after_erasure(subject_ids):
            log.warning("erasure_unfinished", where="database")
            return
        try:
            for subject_id in subject_ids:
                await self.lockout.forget(subject_id)
                if self.redis is not None:
                    purposes = get_args(Purpose)
                    keys = [redis_keys.recent_clips(subject_id, each) for each in purposes]
                    await self.redis.delete(*keys)
            if self.redis is not None:
                async with asyncio.timeout(redis_seconds):
                    await self.redis_rewrites.refresh()
        except (RedisError, OSError, Unavailable) as error:
            log.warning("erasure_unfinished", where="redis", error=type(error).__name__)
            return
        await run_in_threadpool(self.erasures.finish, subject_ids)

    async def _has_no_copies(self) -> bool:
        try:
            return await run_in_threadpool(self.has_no_copies)
        except (OSError, Unavailable):
            return False

    async def _purge_after_erasure(self, subject_ids: Sequence[str]) -> bool:
        """Purge; tables are rewritten only if one of the erasures still needs it."""
        left = partial(self.erasures.not_rewritten_among, subject_ids)
        if self.engine.dialect.name == "sqlite" or not await run_in_threadpool(left):
            return await run_in_threadpool(self.purge_deleted_rows)
        with suppress(TimeoutError):
            async with asyncio.timeout(_REWRITE_SECONDS):
                await self.rewrites.refresh()
        return not await run_in_threadpool(left)

    async def _remove_jobs(self, job_ids: Sequence[str]) -> None:
        removed = [
            job_id for job_id in job_ids if await run_in_threadpool(self.job_files.remove, job_id)
        ]
        await run_in_threadpool(self.subjects.delete_jobs, removed)
        if len(removed) < len(job_ids):
            raise DiskUnusable("Images of jobs cannot be deleted from the disk.", retry_after=30)


def open_face_services(
    settings: Settings,
    engine: Engine,
    client: Redis,
    job_files: JobFiles,
    clock: Callable[[], datetime],
) -> FaceServices:
    """Open the services of this installation.

    Raises:
        ValueError: The master keys are malformed, or others can read their file.
        OSError: The key file cannot be read or created.
    """
    repositories = FaceRepositories.of(settings, engine, clock)
    return FaceServices(
        repositories=repositories,
        search=_open_search(settings, engine, repositories),
        lockout=Lockout(client, settings.face_address_failures),
        tokens=Tokens(repositories.token_keys, settings, clock),
        challenges=Challenges(client, clock),
        job_files=job_files,
        redis=client,
        engine=engine,
        rewrites=SharedCheck(partial(_rewrite_tables, engine)),
        redis_rewrites=SharedCheck(partial(rewrite_append_only_file, client)),
    )


async def _rewrite_tables(engine: Engine) -> None:
    # Other processes rewrite too.
    while rest := await run_in_threadpool(rewrite_for_erasures, engine):  # noqa: ASYNC110
        await asyncio.sleep(rest)


def _open_search(settings: Settings, engine: Engine, repositories: FaceRepositories) -> FaceSearch:
    if settings.face_search == "memory":
        return Gallery(repositories.gallery_source)
    if engine.dialect.name != "postgresql":
        raise ValueError("OPSIN_FACE_SEARCH=pgvector needs PostgreSQL as OPSIN_DATABASE_URL")
    search = VectorSearch(engine, repositories.gallery_source, repositories.cipher)
    search.prepare()
    return search

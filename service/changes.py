"""Makes what a response acknowledges hold for the next request to any API process.

Each process keeps keys, aliases and face templates in memory. Whoever changes something announces
it in the change feed, a Redis stream, and answers only when every live process has applied it: each
follows the feed and acknowledges by setting its own key.

No wait depends on a process that hangs. A process may use its memory only while two things hold:
its key in Redis exists, so that others wait for it, and it has itself checked the database and the
store within `FRESH_SECONDS`, which it does in the background. Otherwise, a request checks first. An
announcement that is not acknowledged therefore ends after `FRESH_SECONDS`: by then, a process that
has not applied the change can no longer use what it knew before. That bound also holds when Redis
is down.
"""

import asyncio
import time
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, cast

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from contracts.errors import OpsinError, Unavailable
from contracts.queue import redis_keys
from contracts.queue.changes import (
    API_PROCESS_EXPIRE_SECONDS,
    FRESH_SECONDS,
    KEPT_ENTRIES,
    NO_ENTRY,
    TOPICS,
    EntryId,
    Topic,
    format_entry_id,
    pack_change,
    parse_entry_id,
    sender_of,
    topics_of,
)
from service.periodic import PeriodicTask

log = structlog.get_logger()

_BLOCK_SECONDS = 0.5
_POLL_SECONDS = 0.005
_CHECK_SECONDS = 1.0  # how long a request waits for its check
_CHANGE_SECONDS = 3.0  # likewise, if there is a change that it would be refused for
_RETRY_SECONDS = 1.0  # after a check that failed, the requests of this time do not wait again
_FAULTS = (TimeoutError, OpsinError, RedisError, OSError)


class SharedState(Protocol):
    """What a process keeps in memory and others may change."""

    def is_older_than(self, moment: float) -> bool:
        """Whether it must be checked to be as of `moment` of `time.monotonic()` or later."""

    async def refresh(self) -> None:
        """Check for changes; what the process knows afterwards is from after the call."""


class ChangeFeed:
    """This process's end of the change feed.

    Args:
        client: Redis, with responses as bytes.
        blocking: A connection that nothing else uses, because it blocks.
        api_id: Names this process.
        states: What is kept in memory, by topic. Those of `required` topics are checked before a
            request uses them.
        required: See `states`.
    """

    def __init__(
        self,
        client: Redis,
        blocking: Redis,
        api_id: str,
        states: Mapping[Topic, SharedState],
        *,
        required: Iterable[Topic] = TOPICS,
    ) -> None:
        self._client = client
        self._blocking = blocking
        self._id = api_id
        self._states = states
        self._required = [(topic, states[topic]) for topic in required if topic in states]
        self._read: EntryId = NO_ENTRY
        self._applied: EntryId = NO_ENTRY
        self._missed: set[Topic] = set()
        self._unread: set[Topic] = set()  # those of `_missed` whose check has failed
        self._failed_at: dict[Topic, float] = {}
        self._listed_since = self._listed_until = float("-inf")
        self._task = PeriodicTask("changes", self._follow, seconds=0, after_fault=0.25)

    async def start(self) -> None:
        """Let other processes wait for this one from now on; then check everything once."""
        try:
            self._read = self._applied = await self._last_entry()
            await self._register()
        except (RedisError, OSError) as error:
            log.warning("changes_not_followed", error=type(error).__name__)
        for topic in self._states:
            await self._apply(topic, announced=False)
        self._task.start()

    async def stop(self) -> None:
        """Follow the feed no longer; nobody waits for this process any more."""
        await self._task.stop()
        self._listed_until = float("-inf")
        try:
            async with asyncio.timeout(_CHECK_SECONDS):
                await self._client.srem(redis_keys.API_PROCESSES, self._id)
                await self._client.delete(redis_keys.api_process(self._id))
        except (RedisError, OSError):
            log.warning("api_process_not_removed")  # it expires

    async def require_current(self) -> None:
        """Before a request: check for changes if this process may have missed some.

        Without a database or Redis, the process goes on with what it has, unless it knows of a
        change that it could not read.

        Raises:
            Unavailable: A change is known and cannot be read.
        """
        now = time.monotonic()
        listed_since = self._listed_since if now < self._listed_until else now
        oldest = max(listed_since, now - FRESH_SECONDS)
        for topic, state in self._required:
            if state.is_older_than(oldest) or topic in self._missed:
                await self.check(topic)

    @property
    def unread(self) -> list[Topic]:
        """The topics whose change could not be read; until it is, requests are refused."""
        return [topic for topic, _ in self._required if topic in self._unread]

    async def announce(self, *topics: Topic, seconds: float = FRESH_SECONDS) -> bool:
        """Apply a change to this process and wait until all others have applied it.

        Call it after the change. It never raises: without Redis it waits for as long as others may
        use what they know.

        Args:
            topics: What has changed.
            seconds: Wait no longer than this.

        Returns:
            Whether the change holds in every process. False only if `seconds` was too short.
        """
        changed_at = time.monotonic()
        for topic in topics:
            await self._apply(topic)
        certain = changed_at + FRESH_SECONDS
        until = min(certain, changed_at + seconds)
        try:
            async with asyncio.timeout(max(0.0, until - time.monotonic())):
                fields: Any = pack_change(topics, self._id)
                raw = await self._client.xadd(
                    redis_keys.CHANGES, fields, maxlen=KEPT_ENTRIES, approximate=True
                )
                entry = parse_entry_id(raw)
                # Not by the timeout alone, which redis-py may swallow; see `PeriodicTask`.
                while time.monotonic() < until:
                    if await self._is_applied(entry):
                        return True
                    await asyncio.sleep(_POLL_SECONDS)
            log.warning("change_not_acknowledged", topics=topics)
        except TimeoutError:
            log.warning("change_not_acknowledged", topics=topics)
        except (RedisError, OSError) as error:
            log.warning("change_not_announced", topics=topics, error=type(error).__name__)
        await asyncio.sleep(max(0.0, until - time.monotonic()))
        return until >= certain

    async def check(self, topic: Topic) -> None:
        """Check for changes now.

        Raises:
            Unavailable: A change is known and cannot be read.
        """
        if time.monotonic() - self._failed_at.get(topic, float("-inf")) >= _RETRY_SECONDS:
            seconds = _CHANGE_SECONDS if topic in self._missed else _CHECK_SECONDS
            await self._apply(topic, seconds=seconds, announced=False)
        if topic in self._missed:
            raise Unavailable("A change cannot be read yet. Retry shortly.", retry_after=1)

    async def _apply(
        self, topic: Topic, *, seconds: float = FRESH_SECONDS, announced: bool = True
    ) -> None:
        """Check one topic; `announced`: it is known to have changed. A failure is remembered."""
        state = self._states.get(topic)
        if state is None:
            return
        if announced:
            self._missed.add(topic)
        asked = time.monotonic()
        try:
            async with asyncio.timeout(seconds):
                await state.refresh()
        except _FAULTS as error:
            # Again, because a check that began before the change may have succeeded meanwhile.
            self._missed |= {topic} if announced else set()
            self._failed(topic)
            log.warning("change_not_read", topic=topic, error=type(error).__name__)
            return
        if state.is_older_than(asked):
            self._failed(topic)
        else:
            self._missed.discard(topic)
            self._unread.discard(topic)

    def _failed(self, topic: Topic) -> None:
        self._failed_at[topic] = time.monotonic()
        self._unread |= self._missed & {topic}

    async def _follow(self) -> None:
        """One round: wait for entries, apply them, acknowledge."""
        if self._missed:
            await self._apply_all(self._missed)
        await self._register()
        streams: Any = {redis_keys.CHANGES: format_entry_id(self._read)}
        answer = await self._blocking.xread(streams, block=int(_BLOCK_SECONDS * 1000))
        entries = [entry for _, found in cast("list[Any]", answer or []) for entry in found]
        if not entries:
            return
        others = [fields for _, fields in entries if sender_of(fields) != self._id]
        await self._apply_all({topic for fields in others for topic in topics_of(fields)})
        self._read = parse_entry_id(entries[-1][0])

    async def _apply_all(self, topics: Iterable[Topic]) -> None:
        for topic in sorted(topics):
            await self._apply(topic)

    async def _register(self) -> None:
        """Acknowledge what was applied, and keep this process in the list of those waited for."""
        if not self._missed:
            self._applied = self._read
        asked = time.monotonic()
        pipe = self._client.pipeline()
        pipe.set(
            redis_keys.api_process(self._id),
            format_entry_id(self._applied),
            px=int(API_PROCESS_EXPIRE_SECONDS * 1000),
        )
        pipe.sadd(redis_keys.API_PROCESSES, self._id)
        pipe.xrevrange(redis_keys.CHANGES, count=1)
        newest = (await pipe.execute())[-1]
        if asked > self._listed_until:
            # Until now, nobody waited for this process: what it knows must be checked once.
            self._listed_since = time.monotonic()
        self._listed_until = asked + API_PROCESS_EXPIRE_SECONDS
        if (parse_entry_id(newest[0][0]) if newest else NO_ENTRY) < self._read:
            # Another Redis, or an emptied one: begin anew.
            self._read = self._applied = NO_ENTRY
            await self._apply_all(self._states)

    async def _last_entry(self) -> EntryId:
        newest = await self._client.xrevrange(redis_keys.CHANGES, count=1)
        return parse_entry_id(newest[0][0]) if newest else NO_ENTRY

    async def _is_applied(self, entry: EntryId) -> bool:
        """Whether every live process has applied an entry.

        False if this process is not in the list: then Redis has lost it, and others as well.
        """
        members = await cast("Any", self._client.smembers(redis_keys.API_PROCESSES))
        ids = sorted(raw.decode() for raw in members)
        if self._id not in ids:
            return False
        values = await self._client.mget([redis_keys.api_process(api_id) for api_id in ids])
        gone = [api_id for api_id, value in zip(ids, values, strict=True) if value is None]
        if gone:
            await cast("Any", self._client.srem(redis_keys.API_PROCESSES, *gone))
        applied = {
            api_id: parse_entry_id(value)
            for api_id, value in zip(ids, values, strict=True)
            if value is not None and api_id != self._id
        }
        return all(known >= entry for known in applied.values())

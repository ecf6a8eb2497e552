"""Removes what was deleted from Redis' append-only file, if there is one that may be rewritten.

Managed servers (ElastiCache, MemoryDB, Azure, Memorystore) and access control lists refuse
BGREWRITEAOF. Retrying would not help, and an erasure would never end. There, the provider rewrites
the file, as it does when the file has grown; `opsin doctor` says so.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, ResponseError

from contracts.errors import Unavailable

log = structlog.get_logger()

_WAIT_SECONDS = 60.0  # enough for several GB; requests have deadlines of their own
_PAUSE_SECONDS = 0.1
_LAST_SECONDS = "aof_last_rewrite_time_sec"
# The beginnings of the errors of servers that do not have a command or do not allow it.
_REFUSALS = ("unknown command", "command not", "this command is not", "not allowed", "noperm")


async def rewrite_append_only_file(redis: Redis) -> bool:
    """Make Redis rewrite its append-only file without what was deleted, and wait until it has.

    A rewrite in progress may have begun before the deletion, so this waits for its end first.

    Returns:
        False if the server does not allow it, so that trying again would not help.

    Raises:
        Unavailable: It takes too long, or has failed, as without memory or room on the disk.
        RedisError: Redis does not answer, or cannot rewrite the file at present.
    """
    if not (await _state(redis)).get("aof_enabled", 1):
        return True
    deadline = time.monotonic() + _WAIT_SECONDS
    try:
        await _until(partial(_begin, redis), deadline)
    except ResponseError as error:
        if not is_refusal(error):
            raise
        log.warning("append_only_file_not_rewritten", reason="the server does not allow it")
        return False
    await _until(partial(_has_ended, redis), deadline)
    return True


def is_refusal(error: ResponseError) -> bool:
    """Whether the server lacks a command, or this user may not call it."""
    text = str(error).lower().removeprefix("err ")
    return isinstance(error, NoPermissionError) or text.startswith(_REFUSALS)


async def _until(is_done: Callable[[], Awaitable[bool]], deadline: float) -> None:
    while not await is_done():
        if time.monotonic() > deadline:
            raise Unavailable("The queue is busy rewriting its file. Retry shortly.", retry_after=2)
        await asyncio.sleep(_PAUSE_SECONDS)


async def _begin(redis: Redis) -> bool:
    """Ask for a rewrite; False if another one is in progress."""
    try:
        await redis.bgrewriteaof()
    except ResponseError as error:
        if "in progress" not in str(error):
            raise
        return False
    return True


async def _has_ended(redis: Redis) -> bool:
    """Whether no rewrite is going on or planned; True if Redis does not tell."""
    state = await _state(redis)
    if state.get("aof_rewrite_in_progress") or state.get("aof_rewrite_scheduled"):
        return False
    # A server that has been started since then remembers no rewrite: -1.
    if state.get("aof_last_bgrewrite_status", "ok") != "ok" or state.get(_LAST_SECONDS) == -1:
        raise Unavailable("The queue could not rewrite its file. Retry shortly.", retry_after=2)
    return True


async def _state(redis: Redis) -> dict[str, Any]:
    """What Redis says of its files; nothing if it does not tell."""
    try:
        state: dict[str, Any] = await redis.info("persistence")
    except ResponseError as error:
        if is_refusal(error):
            return {}
        raise
    return state


class FileWatch:
    """Has the file rewritten after Redis could not write to it for a while.

    A write that a full disk cuts short may leave a hole in it, with which Redis does not start any
    more (`cli.processes.append_only`). A rewrite begins a new file.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._failures: int | None = None  # writes that Redis has refused, when that was seen last
        self._is_suspect = False

    async def run_once(self) -> None:
        """Look at Redis; what it refuses to tell is not asked again soon.

        Raises:
            Unavailable: As `rewrite_append_only_file`.
            RedisError: Likewise.
        """
        state = await _state(self._redis)
        failures = await self._refused()
        is_failing = state.get("aof_last_write_status", "ok") != "ok"
        if is_failing or (self._failures is not None and failures > self._failures):
            self._is_suspect = True
        self._failures = failures
        if self._is_suspect and not is_failing and state.get("aof_enabled"):
            await rewrite_append_only_file(self._redis)
            self._is_suspect = False
            log.info("append_only_file_rewritten", reason="it could not be written for a while")

    async def _refused(self) -> int:
        """The writes that were refused because the file could not be written."""
        try:
            counts: dict[str, Any] = await self._redis.info("errorstats")
        except ResponseError as error:
            if is_refusal(error):
                return 0
            raise
        return int(counts.get("errorstat_MISCONF", {}).get("count", 0))

"""Removes what was deleted from Redis' append-only file, if there is one that may be rewritten.

Managed servers (ElastiCache, MemoryDB, Azure, Memorystore) and access control lists refuse
BGREWRITEAOF. Retrying would not help, and an erasure would never end. There, the provider rewrites
the file, as it does when the file has grown; `opsin doctor` says so.
"""

import asyncio

import structlog
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, ResponseError

from contracts.errors import Unavailable

log = structlog.get_logger()

_TRIES = 25
_PAUSE_SECONDS = 0.2
# The beginnings of the errors of servers that do not have a command or do not allow it.
_REFUSALS = ("unknown command", "command not", "this command is not", "not allowed", "noperm")


async def rewrite_append_only_file(redis: Redis) -> bool:
    """Make Redis rewrite its append-only file without what was deleted.

    A rewrite in progress may have begun before the deletion, so this waits for its end.

    Returns:
        False if the server does not allow it, so that trying again would not help.

    Raises:
        Unavailable: It takes too long.
        RedisError: Redis does not answer, or cannot rewrite the file at present.
    """
    if await _has_none(redis):
        return True
    for _ in range(_TRIES):
        try:
            await redis.bgrewriteaof()
        except ResponseError as error:
            if is_refusal(error):
                log.warning("append_only_file_not_rewritten", reason="the server does not allow it")
                return False
            if "in progress" not in str(error):
                raise
            await asyncio.sleep(_PAUSE_SECONDS)
        else:
            return True
    raise Unavailable("The queue is busy rewriting its file. Retry shortly.", retry_after=2)


def is_refusal(error: ResponseError) -> bool:
    """Whether the server lacks a command, or this user may not call it."""
    text = str(error).lower().removeprefix("err ")
    return isinstance(error, NoPermissionError) or text.startswith(_REFUSALS)


async def _has_none(redis: Redis) -> bool:
    """Whether Redis says that it writes no such file; False if it does not tell."""
    try:
        state = await redis.info("persistence")
    except ResponseError as error:
        if is_refusal(error):
            return False
        raise
    return not state.get("aof_enabled", 1)

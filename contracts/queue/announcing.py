"""Announces a change to the API processes from outside of them: from a command or a job."""

import time
from typing import TYPE_CHECKING, Any, cast

from contracts.queue import redis_keys
from contracts.queue.changes import (
    FRESH_SECONDS,
    KEPT_ENTRIES,
    EntryId,
    Topic,
    pack_change,
    parse_entry_id,
)

if TYPE_CHECKING:
    import redis

_POLL_SECONDS = 0.02


def announce(client: "redis.Redis", *topics: Topic, seconds: float = FRESH_SECONDS) -> bool:
    """Tell all API processes of a change, and wait until they have applied it.

    Call it after the change. A process that does not answer in time applies it within
    `FRESH_SECONDS` all the same.

    Args:
        client: A connection whose answers are bytes.
        topics: What has changed.
        seconds: Wait no longer than this.

    Returns:
        Whether every live process has applied it.

    Raises:
        redis.RedisError: Redis does not answer.
    """
    until = time.monotonic() + seconds
    fields: Any = pack_change(topics, "")
    raw = client.xadd(redis_keys.CHANGES, fields, maxlen=KEPT_ENTRIES, approximate=True)
    entry = parse_entry_id(cast("bytes", raw))
    while not _is_applied(client, entry):
        if time.monotonic() > until:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _is_applied(client: "redis.Redis", entry: EntryId) -> bool:
    members = cast("set[bytes]", client.smembers(redis_keys.API_PROCESSES))
    keys = [redis_keys.api_process(raw.decode()) for raw in members]
    values = cast("list[bytes | None]", client.mget(keys)) if keys else []
    return all(parse_entry_id(value) >= entry for value in values if value is not None)

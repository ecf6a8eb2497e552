"""The API's end of a lane: put images on it, take abandoned ones off, watch that it is drained."""

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

from redis.asyncio import Redis

from contracts.queue import redis_keys
from contracts.queue.messages import Item
from service.queue.admission import LaneLimits

_PUSH = """
local depth = redis.call('LLEN', KEYS[1])
local count = #ARGV - 4
if depth > 0 and depth + count > tonumber(ARGV[1]) then return {-1, depth} end
for i = 5, #ARGV do redis.call('RPUSH', KEYS[1], ARGV[i]) end
local expires = tonumber(ARGV[2])
if redis.call('PTTL', KEYS[1]) < expires then redis.call('PEXPIRE', KEYS[1], expires) end
local scheduled = redis.call('SET', KEYS[2], '1', 'NX', 'PX', ARGV[3])
if depth == 0 or scheduled then
  if redis.call('EXISTS', KEYS[3]) == 0 then redis.call('RPUSH', KEYS[3], '1') end
  redis.call('PEXPIRE', KEYS[3], ARGV[4])
end
return {scheduled and 1 or 0, depth + count}
"""
_NUDGE = """
if redis.call('LLEN', KEYS[1]) == 0 then return 0 end
return redis.call('SET', KEYS[2], '1', 'NX', 'PX', ARGV[1]) and 1 or 0
"""


@dataclass(frozen=True, slots=True)
class Push:
    """What became of a push.

    Attributes:
        accepted: False when the lane has no room.
        schedule: True when the caller has to send the lane's next drain.
        depth: Images that wait.
    """

    accepted: bool
    schedule: bool
    depth: int


class Lanes:
    """All lanes, seen by one API process.

    Args:
        client: A connection whose answers are bytes.
        limits: How many images may wait in each lane. A request of more images than that is
            still taken when nothing else waits, so that no request is impossible.
    """

    def __init__(self, client: Redis, limits: LaneLimits) -> None:
        self._client = client
        self._limits = limits
        self._push = client.register_script(_PUSH)
        self._nudge = client.register_script(_NUDGE)

    async def push(
        self, lane: str, items: Sequence[Item], *, seconds: float, again: bool = False
    ) -> Push:
        """Put images on a lane, all or none.

        Args:
            lane: Which.
            items: The images.
            seconds: After which they vanish if nobody comes.
            again: They were admitted before, so the limit does not apply to them.
        """
        code, depth = cast(
            list[int],
            await self._push(
                keys=[lane, redis_keys.lane_flag(lane), redis_keys.lane_bell(lane)],
                args=[
                    self._limits.most(lane) if not again else 1 << 30,
                    max(1, int(seconds * 1000)),
                    redis_keys.FLAG_EXPIRE_MS,
                    redis_keys.BELL_EXPIRE_MS,
                    *(item.pack() for item in items),
                ],
            ),
        )
        return Push(accepted=code >= 0, schedule=code == 1, depth=depth)

    async def nudge(self, lane: str) -> bool:
        """Whether images wait and no drain is on its way: then the caller has to send one."""
        args = [redis_keys.FLAG_EXPIRE_MS]
        return bool(await self._nudge(keys=[lane, redis_keys.lane_flag(lane)], args=args))

    async def abandon(self, ids: Iterable[bytes], *, seconds: float) -> None:
        """Mark images whose client has gone; a worker that meets them drops them."""
        pipe = self._client.pipeline(transaction=False)
        for item_id in ids:
            pipe.set(redis_keys.abandoned(item_id), 1, px=max(1, int(seconds * 1000)))
        await pipe.execute()

    async def depth(self, lane: str) -> int:
        return int(await self._client.llen(lane))

    async def drain_rate(self, lane: str) -> float | None:
        """Images a second this lane was last seen to drain, or None."""
        raw = await self._client.get(redis_keys.lane_rate(lane))
        return float(raw) if raw else None

    async def incarnation(self) -> str:
        """Another value than before: Redis was restarted, replaced or wiped meanwhile.

        What was put on a lane before may be lost then, be it only its last second.
        """
        mark = secrets.token_hex(8)
        pipe = self._client.pipeline()
        pipe.set(redis_keys.EPOCH, mark, nx=True)
        pipe.get(redis_keys.EPOCH)
        pipe.info("server")
        _, epoch, server = await pipe.execute()
        return f"{server['run_id']}:{epoch.decode()}"

    async def claimed(self, worker_id: str) -> set[bytes]:
        """The ids of images that worker took and did not answer."""
        return cast(set[bytes], await self._client.smembers(redis_keys.claims(worker_id)))

    async def release(self, worker_id: str, ids: Iterable[bytes]) -> None:
        """Strike out claims of a worker that is gone."""
        await self._client.srem(redis_keys.claims(worker_id), *ids)

"""The worker's end of a lane: take a batch of waiting images, give back their answers.

Taking is one Lua call: it drops images whose client has gone, and notes the rest as claimed, so
that the API can send them again should this worker die before it answers.

What a network's batch came to, image by image, before it is sent.
"""

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import redis

from contracts.inference.inference import LaneOperation
from contracts.queue import redis_keys
from contracts.queue.messages import (
    ID_LENGTH,
    ID_OFFSET,
    Item,
    MalformedMessageError,
    Reply,
    Vector,
)

_TAKE = f"""
redis.call('DEL', KEYS[3])
local limit, taken, ids = tonumber(ARGV[1]), {{}}, {{}}
while #taken < limit do
  local raws = redis.call('LPOP', KEYS[1], limit - #taken)
  if not raws then break end
  local marks, of = {{}}, {{}}
  for at, raw in ipairs(raws) do
    of[at] = string.sub(raw, {ID_OFFSET}, {ID_OFFSET + ID_LENGTH - 1})
    marks[at] = '{redis_keys.ABANDONED_PREFIX.decode()}' .. of[at]
  end
  local all = redis.call('EXISTS', unpack(marks)) == 0
  for at, raw in ipairs(raws) do
    if all or redis.call('DEL', marks[at]) == 0 then
      taken[#taken + 1] = raw
      ids[#ids + 1] = of[at]
    end
  end
end
if #taken > 0 then
  redis.call('SADD', KEYS[2], unpack(ids))
  redis.call('EXPIRE', KEYS[2], 3600)
  return taken
end
if #KEYS > 3 and redis.call('EXISTS', unpack(KEYS, 4)) > 0 then return 1 end
return taken
"""
# A reply list whose API process is gone must not stay for ever.
_REPLIES_EXPIRE_SECONDS = 120
_RATE_EXPIRE_SECONDS = 60
_RATE_EVERY_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class LaneName:
    """Which model, version and operation a lane is for."""

    model: str
    version: int
    operation: LaneOperation

    @property
    def key(self) -> str:
        return redis_keys.lane(self.model, self.version, self.operation)

    @property
    def flag(self) -> str:
        return redis_keys.lane_flag(self.key)

    @property
    def bell(self) -> str:
        return redis_keys.lane_bell(self.key)


class Lanes:
    """All lanes, seen by one worker.

    Args:
        client: A connection whose answers are bytes.
        worker_id: Under which images are claimed.
    """

    def __init__(self, client: "redis.Redis", worker_id: str) -> None:
        self._client = client
        self._claims = redis_keys.claims(worker_id)
        self._take = client.register_script(_TAKE)
        self._rate_told: dict[LaneName, float] = {}

    def begin(self, lane: LaneName) -> None:
        """From now on a push schedules the next drain, on this worker or another."""
        self._client.delete(lane.flag)

    def schedule(self, lane: LaneName) -> bool:
        """Claim the right to send the next drain; False if one is on its way already."""
        return bool(self._client.set(lane.flag, 1, nx=True, px=redis_keys.FLAG_EXPIRE_MS))

    def take(self, lane: LaneName, limit: int) -> list[Item]:
        """At most `limit` images, oldest first; those of clients that left are dropped."""
        return self.take_unless(lane, limit, ()) or []

    def take_unless(
        self, lane: LaneName, limit: int, others: Sequence[LaneName]
    ) -> list[Item] | None:
        """The same, and where there are none, whether others are to be looked after.

        Returns:
            At most `limit` images; None if there are none and the drain of one of `others` waits
            for a worker.
        """
        keys = [lane.key, self._claims, lane.bell, *(other.flag for other in others)]
        raws = cast(list[bytes] | int, self._take(keys=keys, args=[limit]))
        if isinstance(raws, int):
            return None
        items = []
        for raw in raws:
            try:
                items.append(Item.unpack(raw))
            except MalformedMessageError:
                # Of another release. Its sender's deadline answers for it.
                continue
        return items

    def listen(self, lanes: Sequence[LaneName], seconds: float) -> str | None:
        """Wait for the bell of one of these lanes.

        Args:
            lanes: Which.
            seconds: How long; at least a millisecond, since Redis takes 0 for ever.

        Returns:
            The key of the lane whose bell rang; None if none did in time.
        """
        keys = {lane.bell: lane.key for lane in lanes}
        rung = cast(
            tuple[bytes, bytes] | None,
            self._client.blpop(list(keys), timeout=max(seconds, 0.001)),
        )
        return keys[rung[0].decode()] if rung else None

    def scheduled(self, lanes: Sequence[LaneName]) -> list[LaneName]:
        """Those of these lanes whose drain waits for a worker."""
        if not lanes:
            return []
        flags = cast(list[bytes | None], self._client.mget([lane.flag for lane in lanes]))
        return [lane for lane, flag in zip(lanes, flags, strict=True) if flag]

    def answer(self, lane: LaneName, answers: Sequence[tuple[Item, Reply]], rate: float) -> None:
        """Send the replies of one batch, and note the rate the lane drains at.

        Args:
            lane: Where the items came from.
            answers: Each item with its reply.
            rate: Images a second, for `Retry-After`.
        """
        by_list: dict[str, list[bytes]] = defaultdict(list)
        for item, reply in answers:
            by_list[item.reply_to].append(reply.pack())
        pipe = self._client.pipeline(transaction=False)
        for key, replies in by_list.items():
            pipe.rpush(key, *replies)
            pipe.expire(key, _REPLIES_EXPIRE_SECONDS)
        self._release(pipe, [item for item, _ in answers])
        now = time.monotonic()
        if now >= self._rate_told.get(lane, 0.0) + _RATE_EVERY_SECONDS:
            self._rate_told[lane] = now
            pipe.set(redis_keys.lane_rate(lane.key), f"{rate:.3f}", ex=_RATE_EXPIRE_SECONDS)
        pipe.execute()

    def is_abandoned(self, item: Item) -> bool:
        """Whether the client of an image that was taken has gone since."""
        return bool(self._client.exists(redis_keys.abandoned(item.id)))

    def drop(self, items: Sequence[Item]) -> None:
        """Let go of images nobody waits for any more."""
        if items:
            self._release(self._client, items)

    def _release(self, client: "redis.Redis", items: Sequence[Item]) -> None:
        client.srem(self._claims, *(item.id for item in items))


@dataclass(frozen=True, slots=True)
class Answer:
    """One image's.

    Attributes:
        vector: The numbers, float32, in one row.
        note: What they mean, where the lane alone does not say it; see
        `contracts.queue.explain_messages`.
    """

    vector: Vector
    note: bytes = b""

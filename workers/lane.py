"""The worker's end of a lane: take a batch of waiting images, give back their answers.

Taking is one Lua call: it drops images whose client has gone, and notes the rest as claimed, so
that the API can send them again should this worker die before it answers.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import redis

from contracts import names
from contracts.inference import LaneOperation
from contracts.messages import ID_LENGTH, ID_OFFSET, Item, MalformedMessageError, Reply

_TAKE = f"""
local taken = {{}}
while #taken < tonumber(ARGV[1]) do
  local raw = redis.call('LPOP', KEYS[1])
  if not raw then break end
  local id = string.sub(raw, {ID_OFFSET}, {ID_OFFSET + ID_LENGTH - 1})
  if redis.call('DEL', '{names.ABANDONED_PREFIX.decode()}' .. id) == 0 then
    taken[#taken + 1] = raw
    redis.call('SADD', KEYS[2], id)
  end
end
if #taken > 0 then redis.call('EXPIRE', KEYS[2], 3600) end
return taken
"""
# A reply list whose API process is gone must not stay for ever.
_REPLIES_EXPIRE_SECONDS = 120
_RATE_EXPIRE_SECONDS = 60


@dataclass(frozen=True, slots=True)
class LaneName:
    """Which model, version and operation a lane is for."""

    model: str
    version: int
    operation: LaneOperation

    @property
    def key(self) -> str:
        return names.lane(self.model, self.version, self.operation)

    @property
    def flag(self) -> str:
        return names.lane_flag(self.key)


class Lanes:
    """All lanes, seen by one worker.

    Args:
        client: A connection whose answers are bytes.
        worker_id: Under which images are claimed.
    """

    def __init__(self, client: "redis.Redis", worker_id: str) -> None:
        self._client = client
        self._claims = names.claims(worker_id)
        self._take = client.register_script(_TAKE)

    def begin(self, lane: LaneName) -> None:
        """From now on a push schedules the next drain, on this worker or another."""
        self._client.delete(lane.flag)

    def schedule(self, lane: LaneName) -> bool:
        """Claim the right to send the next drain; False if one is on its way already."""
        return bool(self._client.set(lane.flag, 1, nx=True, px=names.FLAG_EXPIRE_MS))

    def take(self, lane: LaneName, limit: int) -> list[Item]:
        """At most `limit` images, oldest first; those of clients that left are dropped."""
        raws = cast(list[bytes], self._take(keys=[lane.key, self._claims], args=[limit]))
        items = []
        for raw in raws:
            try:
                items.append(Item.unpack(raw))
            except MalformedMessageError:
                # Of another release. Its sender's deadline answers for it.
                continue
        return items

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
        pipe.set(names.lane_rate(lane.key), f"{rate:.3f}", ex=_RATE_EXPIRE_SECONDS)
        pipe.execute()

    def is_abandoned(self, item: Item) -> bool:
        """Whether the client of an image that was taken has gone since."""
        return bool(self._client.exists(names.abandoned(item.id)))

    def drop(self, items: Sequence[Item]) -> None:
        """Let go of images nobody waits for any more."""
        if items:
            self._release(self._client, items)

    def _release(self, client: "redis.Redis", items: Sequence[Item]) -> None:
        client.srem(self._claims, *(item.id for item in items))

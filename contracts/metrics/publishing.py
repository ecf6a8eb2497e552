"""Brings the metrics of a process to Redis, once a second, beside its heartbeat.

A snapshot outlives its process. When the heartbeat of the process has expired, the API process that
is asked for the metrics adds the snapshot to the retained total and deletes it, in one step. So a
counter neither falls when a process ends nor counts twice. A process that was only silent for a
while learns from its next write that its snapshot was taken, and continues under another field.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from contracts.metrics.registry import Metrics, Values
from contracts.settings import RELEASE

PUBLISH_SECONDS = 1.0
ALIVE_SECONDS = 4.0
TOMBSTONE_SECONDS = 24 * 3600
_MAX_SENT = 8  # snapshots remembered while Redis does not confirm

SNAPSHOTS = "metrics:snapshots"
"""A hash of the snapshot of each process."""

RETAINED = "metrics:retained"
"""A hash of what processes that are gone have counted, by series."""


def alive_key(process: str) -> str:
    """Present while a process publishes."""
    return f"metrics:alive:{process}"


def folded_key(process: str) -> str:
    """The number of the snapshot that was added to what is retained."""
    return f"metrics:folded:{process}"


PUBLISH = """
local folded = redis.call('GET', KEYS[3])
if folded then return tonumber(folded) end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('SET', KEYS[2], '1', 'PX', ARGV[3])
return -1
"""
"""Store a snapshot, unless an earlier one was added to what is retained.

KEYS: snapshots, alive, folded. ARGV: process, snapshot, expiry of alive in ms. Returns -1, or the
number of the snapshot that was added.
"""

FOLD = """
local all = redis.call('HGETALL', KEYS[1])
for at = 1, #all, 2 do
  local process = all[at]
  if redis.call('EXISTS', ARGV[1] .. process) == 0 then
    local snapshot = cjson.decode(all[at + 1])
    for field, values in pairs(snapshot['c']) do
      local before = redis.call('HGET', KEYS[2], field)
      if before then
        local known = cjson.decode(before)
        if #known == #values then
          for place = 1, #values do values[place] = values[place] + known[place] end
        end
      end
      local texts = {}
      for place = 1, #values do texts[place] = string.format('%.17g', values[place]) end
      redis.call('HSET', KEYS[2], field, '[' .. table.concat(texts, ',') .. ']')
    end
    redis.call('SET', ARGV[2] .. process, snapshot['seq'], 'EX', ARGV[3])
    redis.call('HDEL', KEYS[1], process)
  end
end
return {redis.call('HGETALL', KEYS[1]), redis.call('HGETALL', KEYS[2])}
"""
"""Add the snapshots of processes that are gone to what is retained, and return both hashes.

KEYS: snapshots, retained. ARGV: prefix of alive, prefix of folded, expiry of folded in seconds.
"""


@dataclass
class Snapshots:
    """Numbers the snapshots of one process and remembers those that Redis may have kept.

    Attributes:
        metrics: What to publish.
        process: Its id, unique to this run.
        kind: `api`, `worker`, `jobs` or `job`.
        host: Where it runs.
    """

    metrics: Metrics
    process: str
    kind: str
    host: str
    _generation: int = 0
    _sequence: int = 0
    _base: Values = field(default_factory=dict)
    _sent: dict[int, Values] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The field under which this process publishes at present."""
        return f"{self.process}.{self._generation}"

    @property
    def keys(self) -> list[str]:
        """For `PUBLISH`."""
        return [SNAPSHOTS, alive_key(self.id), folded_key(self.id)]

    def next_args(self, *, alive_seconds: float = ALIVE_SECONDS) -> list[str | int]:
        """A new snapshot, as arguments for `PUBLISH`."""
        values = self.metrics.read()
        self._sequence += 1
        self._sent[self._sequence] = values["c"]
        if len(self._sent) > _MAX_SENT:
            del self._sent[sorted(self._sent)[1]]  # not the first, which was confirmed
        snapshot = {
            "seq": self._sequence,
            "release": RELEASE,
            "kind": self.kind,
            "host": self.host,
            "process": self.process,
            "c": _minus(values["c"], self._base),
            "g": values["g"],
            "p": values["p"],
        }
        return [self.id, json.dumps(snapshot), max(1, int(alive_seconds * 1000))]

    def accepted(self, answer: int) -> bool:
        """Take the answer of `PUBLISH`; if False, publish again, under the new `id`."""
        if answer == -1:
            newest = max(self._sent)
            self._sent = {newest: self._sent[newest]}
            return True
        # Only what was kept is counted there; what was counted since belongs to the next field.
        known = max((number for number in self._sent if number <= answer), default=None)
        self._base = {} if known is None else self._sent[known]
        self._generation += 1
        return False


def _minus(values: Values, base: Values) -> Values:
    """What was counted since `base`; a series that was dropped and began again counts whole."""
    if not base:
        return values
    since = {}
    for name, series in values.items():
        before = base.get(name, series)
        is_later = name in base and all(a >= b for a, b in zip(series, before, strict=True))
        since[name] = [a - b for a, b in zip(series, before, strict=True)] if is_later else series
    return since


FOLD_KEYS = [SNAPSHOTS, RETAINED]
FOLD_ARGS: list[str | int] = [alive_key(""), folded_key(""), TOMBSTONE_SECONDS]


def parse_fold(answer: Sequence[Any]) -> tuple[list[dict[str, Any]], Values]:
    """The snapshots and the retained series that `FOLD` returned."""
    snapshots, retained = answer
    return (
        [json.loads(raw) for raw in snapshots[1::2]],
        {
            name.decode(): json.loads(raw)
            for name, raw in zip(retained[::2], retained[1::2], strict=True)
        },
    )

"""Brings the metrics of a process to Redis, once a second, beside its heartbeat.

A snapshot outlives its process. When the heartbeat of the process has expired, the API process that
is asked for the metrics adds the snapshot to the retained total and deletes it, in one step. So a
counter neither falls when a process ends nor counts twice. A process that was only silent for a
while learns from its next write that its snapshot was taken, and continues under another field.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import structlog

from contracts.metrics.registry import Metrics, Values
from contracts.settings import RELEASE

log = structlog.get_logger()

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
local function series_of(raw)
  local readable, series = pcall(cjson.decode, raw)
  return readable and series
end
local function is_series(series)
  if type(series) ~= 'table' or #series == 0 then return false end
  for place = 1, #series do
    local value = series[place]
    -- Neither infinite nor a NaN: JSON has no such numbers.
    if type(value) ~= 'number' or value - value ~= 0 then return false end
  end
  return true
end
local all = redis.call('HGETALL', KEYS[1])
for at = 1, #all, 2 do
  local process = all[at]
  if redis.call('EXISTS', ARGV[1] .. process) == 0 then
    local readable, snapshot = pcall(cjson.decode, all[at + 1])
    local number, counted = 0, {}
    if readable and type(snapshot) == 'table' and type(snapshot['c']) == 'table'
        and type(snapshot['seq']) == 'number' then
      number, counted = snapshot['seq'], snapshot['c']
    end
    for field, values in pairs(counted) do
      if type(field) == 'string' and is_series(values) then
        local before = redis.call('HGET', KEYS[2], field)
        local known = before and series_of(before)
        if is_series(known) and #known == #values then
          for place = 1, #values do values[place] = values[place] + known[place] end
        end
        local texts = {}
        for place = 1, #values do texts[place] = string.format('%.17g', values[place]) end
        redis.call('HSET', KEYS[2], field, '[' .. table.concat(texts, ',') .. ']')
      end
    end
    redis.call('SET', ARGV[2] .. process, number, 'EX', ARGV[3])
    redis.call('HDEL', KEYS[1], process)
  end
end
return {redis.call('HGETALL', KEYS[1]), redis.call('HGETALL', KEYS[2])}
"""
"""Add the snapshots of processes that are gone to what is retained, and return both hashes.

What cannot be read, because another release or something else wrote it, is left out; it must not
keep the metrics of all others from being read.

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
        snapshot = self._labels | {
            "seq": self._sequence,
            "release": RELEASE,
            "c": _minus(values["c"], self._base),
            "g": values["g"],
            "p": values["p"],
        }
        return [self.id, json.dumps(snapshot), max(1, int(alive_seconds * 1000))]

    def own_series(self) -> dict[str, Any]:
        """A snapshot with nothing but the series that have the labels of this process."""
        return self._labels | {"c": {}, "g": {}, "p": self.metrics.read()["p"]}

    @property
    def _labels(self) -> dict[str, Any]:
        return {"kind": self.kind, "host": self.host, "process": self.process}

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
    """The snapshots and the retained series that `FOLD` returned, as far as they can be read."""
    snapshots, retained = answer
    return (
        [one for raw in snapshots[1::2] if (one := _read_snapshot(raw)) is not None],
        _readable(
            {
                name.decode(errors="replace"): _decoded(raw)
                for name, raw in zip(retained[::2], retained[1::2], strict=True)
            }
        ),
    )


def _read_snapshot(raw: bytes) -> dict[str, Any] | None:
    """A snapshot with everything that `Merged.add` needs; None if it says nothing of itself."""
    snapshot = _decoded(raw)
    labels = ("kind", "host", "process")
    if not isinstance(snapshot, dict) or not all(
        isinstance(snapshot.get(name), str) for name in labels
    ):
        log.debug("snapshot_unreadable")
        return None
    return snapshot | {group: _readable(snapshot.get(group)) for group in ("c", "g", "p")}


def _decoded(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None


def _readable(values: Any) -> Values:
    """Those of the series that are lists of finite numbers."""
    if not isinstance(values, dict):
        return {}
    return {
        name: series
        for name, series in values.items()
        if isinstance(series, list)
        and all(type(value) in {int, float} and isfinite(value) for value in series)
    }

"""The metrics of one process.

A plain registry of prometheus_client. Its files for several processes are named by process id and
never removed, which does not suit processes that come and go; see ADR 16.
"""

from collections.abc import Callable, Container
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from contracts.metrics.table import FAMILIES, PREFIX, PROCESS_LABELS, Family

Values = dict[str, list[float]]
"""Series by field; see `field_of`. A histogram has its cumulative buckets, then its sum."""

SEPARATOR = "\x1f"


def field_of(name: str, labels: tuple[str, ...]) -> str:
    """How a series is named in Redis: its metric and the values of its labels."""
    return SEPARATOR.join((name, *labels))


class Metrics:
    """Counts, and reads what was counted. Any thread may do both.

    The series of a metric are kept here by their labels, so that counting is a look-up in a dict
    and an addition.
    """

    def __init__(self) -> None:
        registry = CollectorRegistry(auto_describe=False)
        self._metrics = {
            name: _make(family, registry)
            for name, family in FAMILIES.items()
            if family.merge != "scrape"
        }
        self._series: dict[tuple[str, ...], Any] = {}
        self._before_reading: list[Callable[[], None]] = []

    def inc(self, name: str, *labels: str, by: float = 1) -> None:
        """Add to a counter or a gauge."""
        self._one(name, labels).inc(by)

    def observe(self, name: str, value: float, *labels: str) -> None:
        """Add one value to a histogram."""
        self._one(name, labels).observe(value)

    def set(self, name: str, value: float, *labels: str) -> None:
        """Set a gauge."""
        self._one(name, labels).set(value)

    def before_reading(self, update: Callable[[], None]) -> None:
        """Call `update` before each `read`, to set gauges that nothing else sets."""
        self._before_reading.append(update)

    def clear(self, name: str) -> None:
        """Forget all series of a gauge, before those that exist are set."""
        self._metrics[name].clear()
        self._series = {key: one for key, one in self._series.items() if key[0] != name}

    def drop(self, owners: Container[tuple[str, str]]) -> None:
        """Forget the series of versions that are no longer served, and of models that are gone.

        Args:
            owners: See `Family.owner`.
        """
        for key in list(self._series):
            owner = FAMILIES[key[0]].owner(key[1:])
            if owner is not None and owner in owners:
                del self._series[key]
                self._metrics[key[0]].remove(*key[1:])

    def read(self) -> dict[str, Values]:
        """All values: retained ones under `c`, gauges under `g`, a process's own under `p`."""
        for update in self._before_reading:
            update()
        values: dict[str, Values] = {"c": {}, "g": {}, "p": {}}
        for name, metric in self._metrics.items():
            family = FAMILIES[name]
            group = "p" if family.merge == "process" else "c" if family.is_retained else "g"
            for labels, series in _read(family, metric):
                values[group][field_of(name, labels)] = series
        return values

    def _one(self, name: str, labels: tuple[str, ...]) -> Any:
        key = (name, *labels)
        series = self._series.get(key)
        if series is None:
            metric = self._metrics[name]
            series = self._series[key] = metric.labels(*labels) if labels else metric
        return series


def _make(family: Family, registry: CollectorRegistry) -> Any:
    name, labels = PREFIX + family.name, family.labels
    match family.kind:
        case "counter":
            return Counter(name, family.help, labels, registry=registry)
        case "gauge":
            return Gauge(name, family.help, labels, registry=registry)
        case "histogram":
            return Histogram(name, family.help, labels, registry=registry, buckets=family.buckets)


def _read(family: Family, metric: Any) -> list[tuple[tuple[str, ...], list[float]]]:
    """The series of a metric.

    `collect` gives the same as text and objects for each bucket, and takes several times as long;
    every process does this each second.
    """
    children = list(metric._metrics.items()) if family.labels else [((), metric)]
    if family.kind != "histogram":
        return [(labels, [child._value.get()]) for labels, child in children]
    return [
        (labels, [*accumulate(bucket.get() for bucket in child._buckets), child._sum.get()])
        for labels, child in children
    ]


def all_labels(family: Family) -> tuple[str, ...]:
    """The labels of a metric as it is shown."""
    return family.labels + (PROCESS_LABELS if family.merge == "process" else ())

"""Adds up the snapshots of all processes and writes them in the formats of Prometheus."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from contracts.metrics.registry import SEPARATOR, Values, all_labels, field_of
from contracts.metrics.table import FAMILIES, PREFIX, Family

OPENMETRICS = "application/openmetrics-text"

# A range such as */* leaves the choice to us.
_MEDIA_TYPES = {OPENMETRICS, "text/plain"}

IsServed = Callable[[str, str], bool]
"""Whether a version is served, or a model exists (its version is empty): its series are shown."""

_MERGES: Mapping[str, Callable[[float, float], float]] = {
    "sum": lambda one, other: one + other,
    "max": max,
    "min": min,
}


@dataclass
class Merged:
    """The series of all processes together; `add` takes them one snapshot after the other."""

    values: Values = field(default_factory=dict)

    def add_all(self, snapshots: Sequence[Mapping[str, Any]], retained: Values) -> None:
        """Add the snapshots of all live processes, and what those that ended have left."""
        self.add_values(retained)
        for snapshot in snapshots:
            self.add(snapshot)
        self.set("metrics_processes", len(snapshots))

    def add(self, snapshot: Mapping[str, Any]) -> None:
        """Add the snapshot of a live process."""
        self.add_values(snapshot["c"])
        self.add_values(snapshot["g"])
        labels = (snapshot["kind"], snapshot["host"], snapshot["process"])
        self.add_values({field_of(name, labels): one for name, one in snapshot["p"].items()})

    def add_values(self, values: Values) -> None:
        """Add series, which another release may have written."""
        for name, series in values.items():
            family = FAMILIES.get(name.partition(SEPARATOR)[0])
            if family is None or len(series) != _length(family):
                continue
            known = self.values.get(name)
            merge = _MERGES.get(family.merge)
            if known is None or merge is None:
                self.values[name] = list(series)
            else:
                self.values[name] = [merge(a, b) for a, b in zip(known, series, strict=True)]

    def set(self, name: str, value: float, *labels: str) -> None:
        """Set a gauge that is read when the metrics are asked for."""
        self.values[field_of(name, labels)] = [float(value)]

    def families(self, is_served: IsServed) -> list[Metric]:
        """All metrics with their series, without those of versions and models that are gone."""
        by_name: dict[str, list[tuple[tuple[str, ...], list[float]]]] = {}
        for key, series in sorted(self.values.items()):
            name, *labels = key.split(SEPARATOR)
            family = FAMILIES[name]
            if len(labels) != len(all_labels(family)):
                continue
            owner = family.owner(labels)
            if owner is not None and not is_served(*owner):
                continue
            by_name.setdefault(name, []).append((tuple(labels), series))
        return [_metric(family, by_name.get(name, ())) for name, family in FAMILIES.items()]


def media_type_of(accept: str) -> str:
    """OpenMetrics if a header `Accept` prefers it, in a version that is known here; or text."""
    is_openmetrics = choose_encoder(_preferred(accept))[1].startswith(OPENMETRICS)
    return OPENMETRICS if is_openmetrics else "text/plain"


def exposition(metrics: Sequence[Metric], accept: str) -> tuple[bytes, str]:
    """The metrics in the format that `accept` prefers, and the media type."""

    class _Collected:
        def collect(self) -> Iterable[Metric]:
            return metrics

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected())
    encode, media_type = choose_encoder(media_type_of(accept))
    return encode(registry), media_type


def _preferred(accept: str) -> str:
    """The part of a header `Accept` that is wanted most; the first of several.

    prometheus_client takes OpenMetrics wherever it is named, even if text is wanted more.
    """
    ranges = [part.strip() for part in accept.split(",") if part.strip()]
    wanted = max(ranges, key=_quality, default="")
    return wanted.lower() if _quality(wanted) else ""


def _quality(media_range: str) -> float:
    media_type, *parameters = (part.strip().lower() for part in media_range.split(";"))
    if media_type not in _MEDIA_TYPES:
        return 0.0
    given = [part.removeprefix("q=") for part in parameters if part.startswith("q=")]
    try:
        return float(given[0]) if given else 1.0
    except ValueError:
        return 0.0


def _length(family: Family) -> int:
    return len(family.buckets) + 2 if family.kind == "histogram" else 1


def _metric(family: Family, series: Iterable[tuple[tuple[str, ...], list[float]]]) -> Metric:
    name, labels = PREFIX + family.name, all_labels(family)
    if family.kind == "histogram":
        histogram = HistogramMetricFamily(name, family.help, labels=labels)
        bounds = [*(f"{float(bound)}" for bound in family.buckets), "+Inf"]
        for one, values in series:
            buckets = list(zip(bounds, values[:-1], strict=True))
            histogram.add_metric(list(one), buckets, values[-1])
        return histogram
    made = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = made(name, family.help, labels=labels)
    for one, values in series:
        metric.add_metric(list(one), values[0])
    return metric

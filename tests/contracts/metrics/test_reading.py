"""What is read of the registry is what prometheus_client itself would show."""

from collections import defaultdict

from contracts.metrics.registry import Metrics, Values, field_of
from contracts.metrics.table import FAMILIES


def collected(metrics: Metrics) -> Values:
    """All series by the library's own way of reading."""
    values: Values = defaultdict(list)
    for name, metric in metrics._metrics.items():
        family = FAMILIES[name]
        for sample in metric.collect()[0].samples:
            kind = sample.name.rpartition("_")[2]
            if kind == "created" or (family.kind == "histogram" and kind == "count"):
                continue
            labels = tuple(sample.labels[label] for label in family.labels)
            values[field_of(name, labels)].append(sample.value)
    return dict(values)


def test_all_series_are_read_as_the_library_reads_them() -> None:
    metrics = Metrics()
    for name, family in FAMILIES.items():
        if family.merge == "scrape":
            continue
        for value in (0.0004, 0.3, 7, 1e6):
            for number in range(2):
                labels = [f"{label}{number}" for label in family.labels]
                if family.kind == "histogram":
                    metrics.observe(name, value, *labels)
                else:
                    metrics.inc(name, *labels, by=value)
    read = metrics.read()
    assert {**read["c"], **read["g"], **read["p"]} == collected(metrics)
    assert len(collected(metrics)) > len(metrics._metrics)

import re
from pathlib import Path

import pytest

from contracts.metrics.documentation import rows
from contracts.metrics.registry import Metrics
from contracts.metrics.table import FAMILIES, Family

ROOT = Path(__file__).resolve().parents[3]
# What a client can choose without limit never becomes a label.
LABELS = {
    *("model", "version", "operation", "reason", "outcome", "status", "phase", "queue", "state"),
    *("decision", "part", "kind", "worker", "host"),
}


def test_the_documentation_lists_all_metrics() -> None:
    text = (ROOT / "docs/reference/metrics.md").read_text()
    assert [line for line in text.splitlines() if line.startswith("| `opsin_")] == rows(), (
        "run `scripts/metrics-table` and replace the table"
    )


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_names_follow_the_conventions_of_prometheus(family: Family) -> None:
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", family.name)
    assert family.name.endswith("_total") == (family.kind == "counter")
    assert set(family.labels) <= LABELS
    assert list(family.buckets) == sorted(set(family.buckets))


def test_every_metric_is_counted_somewhere() -> None:
    code = "".join(
        path.read_text()
        for folder in ("contracts", "database", "models", "service", "workers")
        for path in (ROOT / folder).rglob("*.py")
        if path.name != "table.py"
    )
    assert [name for name in FAMILIES if f'"{name}"' not in code] == []


def test_an_unknown_metric_is_a_fault() -> None:
    with pytest.raises(KeyError):
        Metrics().inc("nothing_total")

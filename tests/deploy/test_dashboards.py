"""Dashboards follow Grafana's schema, and a real Prometheus answers each of their queries."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator

from contracts.metrics.exposition import Merged
from contracts.metrics.registry import Metrics
from contracts.metrics.table import FAMILIES
from tests.flow.prometheus import DEPLOY, dashboard_queries, exposing, scraping

# What a query asks for by value.
LABELS = {"state": "queued", "outcome": "error", "reason": "internal_error", "kind": "inference"}
# Without these a dashboard shows 0 and not a gap: nothing has gone wrong, or nothing was asked for.
OFTEN_WITHOUT_SERIES = (
    "redis_errors_total",
    "database_errors_total",
    "refused_requests_total",
    "face_logins_total",
    "face_enrollments_total",
    "jobs_ended_total",
    "jobs",
    "job_queue_age_seconds",
    "training_epochs_total",
    "training_images_total",
    "dataset_files_total",
    "version_evictions_total",
    "heatmap_cache_requests_total",
)


def count_all(metrics: Metrics, without: tuple[str, ...]) -> None:
    """Use each metric once more."""
    for name, family in FAMILIES.items():
        labels = [LABELS.get(label, "x") for label in family.labels]
        if family.merge == "scrape" or name in without:
            continue
        if family.kind == "histogram":
            metrics.observe(name, 0.3, *labels)
        else:
            metrics.inc(name, *labels)


@contextmanager
def serving(without: tuple[str, ...] = ()) -> Iterator[str]:
    """A target that counts with each scrape; yields its host and port."""
    metrics = Metrics()

    def read() -> Merged:
        count_all(metrics, without)
        merged = Merged()
        merged.add(metrics.read() | {"kind": "api", "host": "h", "process": "p"})
        for name, family in FAMILIES.items():
            if family.merge == "scrape" and name not in without:
                merged.set(name, 1, *(LABELS.get(label, "x") for label in family.labels))
        return merged

    with exposing(read) as target:
        yield target


def test_each_query_has_series(tmp_path: Path) -> None:
    queries = dashboard_queries()
    assert len(queries) > 50
    with (
        serving() as full,
        serving(OFTEN_WITHOUT_SERIES) as quiet,
        scraping(full, tmp_path / "full") as one,
        scraping(quiet, tmp_path / "quiet") as other,
    ):
        for prometheus in (one, other):
            deadline = time.monotonic() + 60
            while any(not prometheus.query(query) for _, query in queries):
                empty = [query for _, query in queries if not prometheus.query(query)]
                assert time.monotonic() < deadline, empty
                time.sleep(0.5)
        assert one.query("opsin_info") != {}


SCHEMAS: dict[str, Any] = json.loads((Path(__file__).parent / "grafana.schema.json").read_text())
DASHBOARDS = sorted((DEPLOY / "grafana").glob("*.json"))


def errors(content: object, part: str, definition: str = "") -> list[str]:
    """What Grafana's own schema says of a part of a dashboard."""
    schema = SCHEMAS[part] | ({"$ref": f"#/definitions/{definition}"} if definition else {})
    found = Draft7Validator(schema).iter_errors(content)
    return [f"{list(error.absolute_path)}: {error.message}" for error in found]


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_follows_the_schema_of_grafana(path: Path) -> None:
    """With everything that is of a kind of panel or of the data source, and no unknown word."""
    dashboard = json.loads(path.read_text())
    assert errors(dashboard, "dashboard") == []
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            continue
        assert panel["targets"]
        for target in panel["targets"]:
            assert errors(target, "prometheus") == [], panel["title"]
        assert errors(panel["options"], panel["type"], "Options") == [], panel["title"]
        custom = panel["fieldConfig"]["defaults"].get("custom")
        if custom is not None and "FieldConfig" in SCHEMAS[panel["type"]]["definitions"]:
            assert errors(custom, panel["type"], "FieldConfig") == [], panel["title"]


def test_the_schema_is_strict() -> None:
    dashboard = json.loads(DASHBOARDS[0].read_text())
    assert errors(dashboard | {"pannels": []}, "dashboard")
    panel = next(one for one in dashboard["panels"] if one["type"] == "timeseries")
    assert errors(panel["options"] | {"legends": {}}, "timeseries", "Options")
    assert errors({"expression": "up", "refId": "A"}, "prometheus")


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_the_data_source_is_a_variable_and_panels_do_not_overlap(path: Path) -> None:
    dashboard = json.loads(path.read_text())
    names = {one["name"]: one["type"] for one in dashboard["templating"]["list"]}
    assert names["datasource"] == "datasource"
    taken: set[tuple[int, int]] = set()
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in dashboard["panels"]:
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${datasource}"
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells

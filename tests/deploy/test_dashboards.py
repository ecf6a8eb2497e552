"""A real Prometheus answers every query of the dashboards, once each metric has a series."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from contracts.metrics.exposition import Merged
from contracts.metrics.registry import Metrics
from contracts.metrics.table import FAMILIES
from tests.flow.prometheus import dashboard_queries, exposing, scraping

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

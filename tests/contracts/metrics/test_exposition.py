"""What a scraper reads: each format as its own parser demands, whatever labels hold."""

import shutil
import subprocess

import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

from contracts.metrics.exposition import Merged, exposition
from contracts.metrics.registry import Metrics, all_labels
from contracts.metrics.table import FAMILIES, PREFIX

PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;q=0.4,*/*;q=0.2"
)


@pytest.fixture(scope="module")
def everything() -> Merged:
    """A series of each metric, with labels that need escapes."""
    metrics, merged = Metrics(), Merged()
    for name, family in FAMILIES.items():
        labels = tuple(f'a"\\\n{label}' for label in family.labels)
        if family.merge == "scrape":
            merged.set(name, 2, *labels)
        elif family.kind == "histogram":
            metrics.observe(name, 0.3, *labels)
        else:
            metrics.inc(name, *labels)
    merged.add(metrics.read() | {"kind": "api", "host": "h", "process": "p"})
    return merged


def text_of(merged: Merged, accept: str) -> tuple[str, str]:
    content, media_type = exposition(merged.families(lambda *_: True), accept)
    return content.decode(), media_type


def test_openmetrics_passes_its_strict_parser(everything: Merged) -> None:
    text, _ = text_of(everything, "application/openmetrics-text; version=1.0.0")
    families = {family.name: family for family in parse_openmetrics(text)}
    assert len(families) == len(FAMILIES)
    for name, family in FAMILIES.items():
        found = families[PREFIX + (name.removesuffix("_total"))]
        assert found.samples, name
        assert found.type == family.kind
        assert set(all_labels(family)) <= set(found.samples[0].labels)
    list(parse_openmetrics(text_of(Merged(), "application/openmetrics-text")[0]))


def test_text_passes_the_linter_of_prometheus(everything: Merged) -> None:
    text, _ = text_of(everything, "")
    assert len(list(parse_text(text))) == len(FAMILIES)
    if (tool := shutil.which("promtool")) is None:
        pytest.skip("promtool is missing; apt-get install prometheus")
    result = subprocess.run(
        [tool, "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", "text/plain"),
        ("*/*", "text/plain"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "text/plain"),
        ("application/json", "text/plain"),
        ("bad;;;q=x", "text/plain"),
        (PROMETHEUS_3, "application/openmetrics-text"),
        ("application/openmetrics-text", "application/openmetrics-text"),
        ("Application/OpenMetrics-Text; Version=1.0.0", "application/openmetrics-text"),
        ("text/plain;q=0.9, application/openmetrics-text;q=0.1", "text/plain"),
        ("application/openmetrics-text;q=0", "text/plain"),
        ("application/openmetrics-text;q=0, text/plain;q=0", "text/plain"),
        ("text/plain;q=0.5, application/openmetrics-text", "application/openmetrics-text"),
    ],
)
def test_the_format_is_the_one_that_is_wanted_most(
    everything: Merged, accept: str, expected: str
) -> None:
    assert text_of(everything, accept)[1].split(";")[0] == expected

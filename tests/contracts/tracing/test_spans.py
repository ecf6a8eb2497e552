"""Spans without a collector, and with one that is not there."""

import logging

import pytest
import structlog

from contracts.settings import Settings
from contracts.tracing.spans import begin, begin_request, span, start_tracing, stop_tracing


def test_without_a_collector_nothing_is_recorded() -> None:
    start_tracing(Settings(_env_file=None, trace_ratio=1.0), "api")
    assert begin("x", None) is None
    assert begin_request("x", None, is_probe=False) is None
    with span("x", some=1) as part:
        assert part is None
    stop_tracing()


def test_a_collector_that_is_away_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), structlog.testing.capture_logs() as lines:
        settings = Settings(_env_file=None, otlp_endpoint="http://127.0.0.1:9", trace_ratio=1.0)
        start_tracing(settings, "api")
        part = begin_request("x", None, is_probe=False)
        assert part is not None
        part.end()
        stop_tracing()
    assert {line["event"] for line in lines} <= {"traced", "spans_not_sent"}
    assert not [record for record in caplog.records if record.name.startswith("opentelemetry")]


def test_a_wrong_variable_is_logged_and_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with structlog.testing.capture_logs() as lines:
        start_tracing(Settings(_env_file=None), "api")
    assert begin("x", None) is None
    (line,) = lines
    assert line["event"] == "not_traced"
    assert "grpc" in line["reason"]

"""Spans by OpenTelemetry's SDK, sent to a collector by OTLP over HTTP.

Only `contracts.tracing.spans` imports this module, and only if a collector is named. The provider
is not made the global one: FastAPI and other libraries would then add spans with what Opsin never
records, such as query strings.
"""

import logging
import os
import socket
import time
from collections.abc import Sequence
from threading import Thread
from typing import Any, cast

import structlog
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)
from opentelemetry.trace import Span as OtelSpan

from contracts.settings import RELEASE
from contracts.tracing.config import TracingConfig, shown_endpoint
from contracts.tracing.origin import TraceContext
from contracts.tracing.spans import Value

_SCHEMA = "https://opentelemetry.io/schemas/1.44.0"
_KINDS = {kind.name.lower(): kind for kind in SpanKind}
# Bounds what is held in memory while the collector does not answer; more is dropped.
_MAX_WAITING, _SEND_MS, _TIMEOUT_SECONDS = 2048, 1000.0, 5.0
_FLUSH_SECONDS = 2.0
_LOG_SECONDS = 60.0

log = structlog.get_logger()


class RecordedSpan:
    """Implements `contracts.tracing.spans.Span`."""

    __slots__ = ("_span", "context")

    def __init__(self, recorded: OtelSpan) -> None:
        self._span = recorded
        made = recorded.get_span_context()
        self.context = TraceContext(f"{made.trace_id:032x}", f"{made.span_id:016x}", "01")

    def name(self, name: str) -> None:
        self._span.update_name(name)

    def set(self, **attributes: Value) -> None:
        for name, value in attributes.items():
            self._span.set_attribute(name.replace("__", "."), value)

    def fail(self, reason: str) -> None:
        self._span.set_attribute("error.type", reason)
        self._span.set_status(StatusCode.ERROR)

    def end(self, at: int | None = None) -> None:
        self._span.end(at)


class _QuietExporter(OTLPSpanExporter):
    """Says once a minute that spans could not be sent, instead of several times for each batch."""

    _said_at = float("-inf")
    _lost = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = super().export(spans)
        if result is not SpanExportResult.SUCCESS:
            self._lost += len(spans)
            now = time.monotonic()
            if now > self._said_at + _LOG_SECONDS:
                endpoint = shown_endpoint(self._endpoint)
                log.warning("spans_not_sent", endpoint=endpoint, spans=self._lost)
                self._said_at, self._lost = now, 0
        return result


class SpanExporter:
    """Makes spans and sends them in batches, in a thread of its own."""

    def __init__(self, config: TracingConfig, process: str) -> None:
        self.config = config
        resource: dict[str, str | int] = {
            "service.namespace": "opsin",
            "service.version": RELEASE,
            "service.instance.id": f"{socket.gethostname()}:{os.getpid()}",
            "host.name": socket.gethostname(),
            "process.pid": os.getpid(),
        }
        if not os.environ.get("OTEL_SERVICE_NAME"):
            resource[SERVICE_NAME] = f"opsin-{process}"
        self._provider = TracerProvider(
            sampler=ALWAYS_ON, resource=Resource.create(resource), shutdown_on_exit=False
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(
                _QuietExporter(endpoint=config.endpoint, timeout=_TIMEOUT_SECONDS),
                max_queue_size=_MAX_WAITING,
                schedule_delay_millis=_SEND_MS,
            )
        )
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        self._flushing: Thread | None = None
        self._tracer = self._provider.get_tracer("opsin", RELEASE, schema_url=_SCHEMA)

    def begin(
        self,
        name: str,
        parent: TraceContext | None,
        *,
        kind: str = "internal",
        at: int | None = None,
        links: Sequence[TraceContext] = (),
    ) -> RecordedSpan:
        """See `contracts.tracing.spans.begin`."""
        context = None if parent is None else _context_of(parent)
        return RecordedSpan(
            self._tracer.start_span(
                name,
                # An empty one, not None: that would be OpenTelemetry's current span.
                cast("Any", {}) if context is None else context,
                _KINDS[kind],
                links=[Link(_span_context(link)) for link in links],
                start_time=at,
            )
        )

    def flush(self) -> None:
        """Send what waits; a collector that does not answer is not waited for long."""
        if self._flushing is None or not self._flushing.is_alive():
            # The SDK's own limit does not interrupt an attempt to send.
            self._flushing = Thread(target=self._provider.force_flush, daemon=True)
            self._flushing.start()
            self._flushing.join(_FLUSH_SECONDS)

    def close(self) -> None:
        """As `flush`; nothing more may be recorded."""
        self.flush()
        Thread(target=self._provider.shutdown, daemon=True).start()


def _context_of(parent: TraceContext) -> Any:
    return set_span_in_context(NonRecordingSpan(_span_context(parent)), cast("Any", {}))


def _span_context(one: TraceContext) -> SpanContext:
    return SpanContext(
        int(one.trace_id, 16),
        int(one.span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
    )

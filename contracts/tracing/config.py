"""Whether and which requests are traced: Opsin's settings, or OpenTelemetry's own variables."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

from contracts.settings import Settings

_PATH = "v1/traces"


class TracingConfigError(ValueError):
    """A variable has a value that cannot be followed; the message says which."""


@dataclass(frozen=True, slots=True)
class TracingConfig:
    """Where spans are sent, and of which requests.

    Attributes:
        endpoint: URL of the collector's receiver of traces.
        ratio: Share of the requests that are traced, from 0 to 1.
        follows_client: Whether a request with `traceparent` is traced exactly if that says so.
    """

    endpoint: str
    ratio: float = 1.0
    follows_client: bool = True

    @classmethod
    def of(cls, settings: Settings, environment: Mapping[str, str] = os.environ) -> Self | None:
        """None if no collector is named.

        Raises:
            TracingConfigError: One is named that spans cannot be sent to.
        """
        endpoint = _endpoint(settings, environment)
        if endpoint is None:
            return None
        if urlsplit(endpoint).scheme not in {"http", "https"} or not urlsplit(endpoint).hostname:
            shown = shown_endpoint(endpoint)
            raise TracingConfigError(f"'{shown}' is not an http:// or https:// address")
        sampler = environment.get("OTEL_TRACES_SAMPLER") or "parentbased_always_on"
        kind = sampler.removeprefix("parentbased_")
        if kind not in {"always_on", "always_off", "traceidratio"}:
            raise TracingConfigError(f"OTEL_TRACES_SAMPLER={sampler} is not supported")
        ratio = {"always_on": 1.0, "always_off": 0.0}.get(kind)
        if settings.trace_ratio is not None:
            ratio = settings.trace_ratio
        elif ratio is None:
            ratio = _ratio(environment.get("OTEL_TRACES_SAMPLER_ARG") or "1")
        return cls(endpoint, ratio, kind != sampler)


def shown_endpoint(endpoint: str) -> str:
    """A collector's address as it may be logged: without a password and without a query."""
    address = endpoint.partition("?")[0]
    scheme, separator, rest = address.rpartition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"


def _endpoint(settings: Settings, environment: Mapping[str, str]) -> str | None:
    if settings.otlp_endpoint:
        return f"{settings.otlp_endpoint.rstrip('/').removesuffix('/' + _PATH)}/{_PATH}"
    is_off = environment.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if is_off or environment.get("OTEL_TRACES_EXPORTER", "otlp").strip() not in {"otlp", ""}:
        return None
    full = environment.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    base = environment.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    if not full and not base:
        return None
    protocol = (
        environment.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
        or environment.get("OTEL_EXPORTER_OTLP_PROTOCOL")
        or "http/protobuf"
    )
    if protocol != "http/protobuf":
        raise TracingConfigError(
            f"OTLP is spoken as http/protobuf, mostly at port 4318, not as {protocol}"
        )
    return full or f"{str(base).rstrip('/')}/{_PATH}"


def _ratio(text: str) -> float:
    try:
        ratio = float(text)
    except ValueError:
        ratio = -1.0
    if not 0 <= ratio <= 1:
        raise TracingConfigError(f"OTEL_TRACES_SAMPLER_ARG={text} is not between 0 and 1")
    return ratio

"""Which variables turn tracing on, and what is traced then."""

import subprocess
import sys

import pytest

from contracts.settings import Settings
from contracts.tracing.config import TracingConfig, TracingConfigError

BASE = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318/"}
ALL = TracingConfig("http://collector:4318/v1/traces")


def config_of(environment: dict[str, str], **settings: object) -> TracingConfig | None:
    return TracingConfig.of(Settings(_env_file=None, **settings), environment)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("environment", "settings", "expected"),
    [
        ({}, {}, None),
        (BASE, {}, ALL),
        ({}, {"otlp_endpoint": "http://collector:4318"}, ALL),
        ({}, {"otlp_endpoint": "http://collector:4318/v1/traces"}, ALL),
        ({}, {"otlp_endpoint": ""}, None),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c/x"}, {}, TracingConfig("http://c/x")),
        (BASE | {"OTEL_SDK_DISABLED": "true"}, {}, None),
        (BASE | {"OTEL_TRACES_EXPORTER": "none"}, {}, None),
        (BASE | {"OTEL_TRACES_EXPORTER": "otlp"}, {}, ALL),
        (BASE, {"trace_ratio": 0.1}, TracingConfig(ALL.endpoint, 0.1)),
        (
            BASE | {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.25"},
            {},
            TracingConfig(ALL.endpoint, 0.25, follows_client=False),
        ),
        (
            BASE | {"OTEL_TRACES_SAMPLER": "parentbased_always_off"},
            {},
            TracingConfig(ALL.endpoint, 0.0),
        ),
    ],
)
def test_variables(
    environment: dict[str, str], settings: dict[str, object], expected: TracingConfig | None
) -> None:
    assert config_of(environment, **settings) == expected


@pytest.mark.parametrize(
    "wrong",
    [
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"},
        BASE | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
        BASE | {"OTEL_TRACES_SAMPLER": "jaeger_remote"},
        BASE | {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "2"},
        BASE | {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "much"},
    ],
)
def test_what_cannot_be_followed_is_named(wrong: dict[str, str]) -> None:
    (word,) = (value for value in list(wrong.values())[-1:])
    with pytest.raises(TracingConfigError, match=word):
        config_of(wrong)


PROGRAM = """
import sys
import {module}
from contracts.settings import Settings
from contracts.tracing.spans import is_tracing, start_tracing
start_tracing(Settings(_env_file=None), "api")
assert not is_tracing()
# FastAPI imports OpenTelemetry's interfaces, and redis-py its metrics, both without a purpose here.
parts = ("opentelemetry.sdk.trace", "opentelemetry.exporter", "opentelemetry.proto")
print([name for name in sys.modules if name.startswith(parts)])
"""


@pytest.mark.parametrize("module", ["service.server", "workers.jobs.child"])
def test_no_part_that_records_or_sends_is_imported_without_a_collector(module: str) -> None:
    program = PROGRAM.format(module=module)
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={}
    )
    assert result.stdout.strip() == "[]"

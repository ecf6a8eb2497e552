"""Generated requests against a real installation.

Schemathesis derives them from `/openapi.json`: valid ones, invalid ones, and sequences of them. The
event stream is excluded, because it does not end.
"""

import subprocess
import sysconfig
from pathlib import Path

import pytest

from tests.flow.conftest import Start

pytestmark = pytest.mark.slow  # minutes of waiting; `make test-all` runs it

KEY = "schemathesis-asks-with-this-key"
SCHEMATHESIS = Path(sysconfig.get_path("scripts"), "schemathesis")
# Left out: that an unknown header must be refused (HTTP says the opposite), and that every text
# short enough for a cursor is a valid one.
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "response_headers_conformance",
    "missing_required_header",
    "use_after_free",
    "unsupported_method",
)
# 503 is right for a model without weights, and 504 for a deadline of a millisecond.
# For methods other than its own, TensorFlow Serving's `…/{model}:predict` is a `…/{name}` whose
# name contains a colon; there is no such model, so the status is 404.
CONFIGURATION = """\
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", 503, 504]

[[operations]]
include-path-regex = ":predict$"
checks.unsupported_method.enabled = false
"""


@pytest.mark.parametrize(
    "seconds", [30, pytest.param(300, marks=[pytest.mark.slow, pytest.mark.timeout(600)])]
)
def test_no_request_causes_a_server_error(start: Start, tmp_path: Path, seconds: int) -> None:
    # A separate installation, because some of the requests remove the alias `champion`.
    running = start(OPSIN_API_KEY=KEY)
    configuration = tmp_path / "schemathesis.toml"
    configuration.write_text(CONFIGURATION)
    done = subprocess.run(
        [
            *(str(SCHEMATHESIS), "--config-file", str(configuration)),
            *("run", f"{running.url}/openapi.json", "--checks", ",".join(CHECKS)),
            # An explicit key, because creating the first key closes an open service.
            *("--header", f"X-API-Key: {KEY}"),
            *("--max-time", str(seconds), "--exclude-path-regex", "/events$"),
            *("--request-timeout", "40", "--continue-on-failure", "--no-color"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=seconds + 100,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert "unexpected exception" not in (running.home / "api.log").read_text()
    assert running.get("/healthz").status_code == 200

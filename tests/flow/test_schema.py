"""The real stack against requests that no client of ours would send.

Schemathesis makes them from `/openapi.json`: valid ones, broken ones, and chains of them. The
event stream is left out, since by its nature it does not end.
"""

import subprocess
import sysconfig
from pathlib import Path

import pytest

from tests.flow.conftest import Start

pytestmark = pytest.mark.slow  # minutes of waiting; `make test-all` runs it

KEY = "schemathesis-asks-with-this-key"
SCHEMATHESIS = Path(sysconfig.get_path("scripts"), "schemathesis")
# Not among them: that an unknown header must be refused (HTTP says the contrary), and that every
# text short enough for a cursor is one.
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
# A model whose weights are missing is 503, and a deadline of a millisecond is 504, rightly.
# TensorFlow Serving's `…/{model}:predict` is, for all methods but its own, a `…/{name}` of a name
# with a colon in it; there is no model of such a name, so its answer is 404.
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
def test_no_request_meets_a_server_error(start: Start, tmp_path: Path, seconds: int) -> None:
    running = start(
        OPSIN_API_KEY=KEY
    )  # of its own: among the requests are those that take a champion away
    configuration = tmp_path / "schemathesis.toml"
    configuration.write_text(CONFIGURATION)
    done = subprocess.run(
        [
            *(str(SCHEMATHESIS), "--config-file", str(configuration)),
            *("run", f"{running.url}/openapi.json", "--checks", ",".join(CHECKS)),
            # A key of its own: the first one that is made closes a service that was open.
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

"""The parts of `make costs` that need no running service."""

import re
from pathlib import Path

import pytest

from tests.flow.installation import ROOT
from tests.reliability.pattern_costs import Found, slow_patterns, slowness
from tests.reliability.request_payloads import FILLED_HEADERS, Operation

_READ = re.compile(
    r'(?:headers\.get\(|getlist\(|headers\[|alias=)"([A-Z][\w-]+)"'
    r'|name == b"([a-z-]+)"|^_?[A-Z_]+ = b"([a-z]+-[a-z-]+)"',
    re.MULTILINE,
)
_NOT_OF_REQUESTS = {
    *("allow", "cache-control", "content-security-policy", "location", "set-cookie"),
    "content-transfer-encoding",  # of a part
}


def test_every_header_that_the_service_reads_is_filled() -> None:
    source = "".join(path.read_text() for path in Path(ROOT, "service").rglob("*.py"))
    read = {next(filter(None, found)).lower() for found in _READ.findall(source)}
    assert {"range", "if-none-match", "cookie", "prefer", "host"} <= read
    filled = {name.lower() for name in FILLED_HEADERS}
    assert read - filled - _NOT_OF_REQUESTS == set()


@pytest.mark.parametrize(
    ("pattern", "method"),
    [
        (r"bytes\s*=\s*([0-9]{0,18})\s*-\s*([0-9]{0,18})", "fullmatch"),
        (r"^(.+?)[\"']?\s*[:=]\s*(\d+\.?\d*(?:[eE][+-]?\d+)?)$", "match"),
        (r"[^\W_]+$", "sub"),
        (r"(a+)+b", "match"),
    ],
)
def test_slow_pattern_is_found(pattern: str, method: str) -> None:
    assert slowness(Found("here", re.compile(pattern), (method,))).startswith("here: ")


@pytest.mark.parametrize("pattern", [r"[a-z]+\d*", r"a{1,8}b{1,8}", r"(?:[ab]|c)*d"])
def test_linear_pattern_is_not(pattern: str) -> None:
    assert slowness(Found("here", re.compile(pattern), ("match",))) == ""


def test_patterns_of_requests_are_linear() -> None:
    assert slow_patterns(["contracts", "service", "models.datasets"]) == []


def test_a_field_of_each_body_is_filled() -> None:
    body = Operation("POST", "/a", "/a", "application/json", b"{}", ("name",), {"name": "x"})
    names = [payload.name for payload in body.bodies()]
    assert "name: spaces" in names
    assert "JSON: nested lists" in names

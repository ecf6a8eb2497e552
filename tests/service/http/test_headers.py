import asyncio

import pytest
from starlette.datastructures import Headers
from starlette.requests import Request

from service.auth.principal import OPEN
from service.console.page import language_of
from service.http.conditional import is_gzip_accepted
from service.http.headers import _prefers_async, _stored_key, preferred_type


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", "image/png"),
        ("*/*", "image/png"),
        ("image/*", "image/png"),
        ("application/json", "application/json"),
        ("Application/JSON; charset=utf-8", "application/json"),
        ("application/json, text/plain, */*", "application/json"),
        ("image/png;q=0.4, application/json;q=0.5", "application/json"),
        ("application/json;q=0.5, image/png", "image/png"),
        ("application/json, image/png", "image/png"),
        ("application/json;q=0, */*", "image/png"),
        ("image/png;q=0, */*", "application/json"),
        ("image/jpeg", "image/png"),
        ("application/json;q=lots, image/png;q=0.1", "image/png"),
        ("image/png;q=nan, application/json", "application/json"),
    ],
)
def test_the_preferred_type(accept: str, kind: str) -> None:
    assert preferred_type(accept) == kind


def test_an_idempotency_key_without_an_api_key_belongs_to_an_address() -> None:
    def stored(address: str, sent: str) -> str | None:
        scope = {"type": "http", "client": (address, 1), "state": {"principal": OPEN}}
        return _stored_key(Request(scope), sent)

    first = stored("127.0.0.1", "k" * 255)
    assert first is not None
    assert len(first) <= 255
    assert first == stored("127.0.0.1", "k" * 255)
    assert first not in {stored("::1", "k" * 255), stored("127.0.0.1", "another")}


@pytest.mark.parametrize(("others", "is_read"), [(["x"] * 90, True), (["x"] * 31_000, False)])
def test_of_long_lists_the_beginning_is_read(others: list[str], is_read: bool) -> None:
    """Each item takes two microseconds of the event loop, some of them without a key."""

    def listed(last: str) -> str:
        return ",".join([*others, last])

    def request(name: bytes, last: str) -> Request:
        return Request({"type": "http", "headers": [(name, listed(last).encode())]})

    assert is_gzip_accepted(Headers({"Accept-Encoding": listed("gzip")})) == is_read
    assert (preferred_type(listed("application/json")) == "application/json") == is_read
    assert asyncio.run(_prefers_async(request(b"prefer", "respond-async"))) == is_read
    assert (language_of(request(b"accept-language", "zh")) == "zh") == is_read

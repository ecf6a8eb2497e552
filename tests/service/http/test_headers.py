import pytest
from starlette.requests import Request

from service.auth.principal import OPEN
from service.http.headers import _stored_key, preferred_type


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

"""Pages of other sites: shut out, but for those that are named."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import httpx
import pytest
from pydantic import ValidationError
from starlette.middleware.cors import CORSMiddleware

from contracts.settings import Settings
from service.middleware.cors import cors_options
from tests.service.parts import FakeServices

StartService = Callable[[Settings, FakeServices], AbstractContextManager[str]]
KEY = "a-key-of-sixteen-or-more"
ACTION_COUNT = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type",
}


def test_by_default_no_page_is_let_in(served: StartService, fakes: FakeServices) -> None:
    with served(Settings(_env_file=None, api_key=KEY), fakes) as url:
        origin = {"Origin": "https://app.example.org"}
        preflight = httpx.options(f"{url}/v1/classify", headers=origin | ACTION_COUNT)
        assert preflight.status_code == 401
        plain = httpx.get(f"{url}/v1/models", headers=origin | {"X-API-Key": KEY})
        for answer in (preflight, plain):
            assert not [name for name in answer.headers if name.startswith("access-control")]
            assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_a_named_origin_may_ask_and_another_not(served: StartService, fakes: FakeServices) -> None:
    settings = Settings(_env_file=None, api_key=KEY, cors_origins="https://app.example.org")
    with served(settings, fakes) as url:
        named = {"Origin": "https://app.example.org"}
        preflight = httpx.options(f"{url}/v1/classify", headers=named | ACTION_COUNT)
        assert preflight.status_code == 200
        assert preflight.headers["Access-Control-Allow-Origin"] == "https://app.example.org"
        assert "Access-Control-Allow-Credentials" not in preflight.headers
        refused = httpx.get(f"{url}/v1/models", headers=named)
        assert refused.status_code == 401  # an origin is no key, and the page may read why
        assert refused.headers["Access-Control-Allow-Origin"] == "https://app.example.org"
        other = httpx.options(
            f"{url}/v1/classify", headers={"Origin": "https://example.org"} | ACTION_COUNT
        )
        assert "Access-Control-Allow-Origin" not in other.headers


async def no_app(*_: object) -> None: ...


@pytest.mark.parametrize(
    ("named", "admitted", "refused"),
    [
        ("capacitor://localhost", "capacitor://localhost", "ionic://localhost"),
        ("ionic://localhost", "ionic://localhost", "http://localhost"),
        ("app://.", "app://.", "app://x"),
        ("chrome-extension://abcdefghijklmnop", "chrome-extension://abcdefghijklmnop", "null"),
        ("https://*.example.org", "https://a.b.example.org", "https://example.org"),
        ("https://*.example.org", "https://app.example.org", "https://app.example.org.evil.com"),
        ("https://*.example.org", "https://app.example.org", "https://evilexample.org"),
        ("https://*.example.org", "https://app.example.org", "http://app.example.org"),
        ("https://*.example.org:8443", "https://a.example.org:8443", "https://a.example.org"),
        ("http://localhost:*", "http://localhost:3000", "http://localhost.evil.com:3000"),
        ("http://localhost:*", "http://localhost", "https://localhost:3000"),
        ("https://App.example.org:443", "https://app.example.org", "https://app.example.org:444"),
    ],
)
def test_the_origins_of_apps_and_wildcards(named: str, admitted: str, refused: str) -> None:
    settings = Settings(_env_file=None, cors_origins=f"https://other.com, {named}")
    app = CORSMiddleware(no_app, **cors_options(settings))
    assert app.is_allowed_origin(admitted)
    assert not app.is_allowed_origin(refused)


def test_a_page_may_read_the_headers_that_it_needs(
    served: StartService, fakes: FakeServices
) -> None:
    settings = Settings(_env_file=None, api_key=KEY, cors_origins="https://app.example.org")
    named = {"Origin": "https://app.example.org"}
    with served(settings, fakes) as url:
        answer = httpx.get(f"{url}/healthz", headers=named)
        exposed = {n.strip() for n in answer.headers["Access-Control-Expose-Headers"].split(",")}
        private = {"Access-Control-Request-Private-Network": "true"}
        preflight = httpx.options(f"{url}/v1/classify", headers=named | ACTION_COUNT | private)
    assert exposed >= {
        *("X-Request-Id", "Location", "Retry-After", "RateLimit", "RateLimit-Policy"),
        *("Preference-Applied", "Content-Disposition", "Inference-Header-Content-Length"),
        *("ETag", "Content-Range"),
    }
    assert preflight.headers["Access-Control-Allow-Private-Network"] == "true"


def test_an_open_service_serves_the_pages_that_are_named(
    served: StartService, fakes: FakeServices
) -> None:
    cross = {"Sec-Fetch-Site": "cross-site"}
    for named, status in (("https://app.example.org", 200), ("*", 403), ("", 403)):
        with served(Settings(_env_file=None, cors_origins=named), fakes) as url:
            headers = {"Origin": "https://app.example.org"} | cross
            assert httpx.get(f"{url}/v1/models", headers=headers).status_code == status
            assert httpx.get(f"{url}/v1/models", headers=cross).status_code == 403


@pytest.mark.parametrize(
    "origin",
    [
        *("example.org", "https://example.org/", "ftp://x", "https://", "null", "https://*"),
        *("https://a*.example.org", "https://*.*.example.org", "https://a.org:80*", "file://x"),
    ],
)
def test_what_is_no_origin_stops_the_start(origin: str) -> None:
    with pytest.raises(ValidationError):
        Settings(_env_file=None, cors_origins=origin)


def test_who_the_client_is_a_trusted_proxy_says_and_nobody_else(
    served: StartService, fakes: FakeServices
) -> None:
    """Wrong keys are counted by address; a header that anybody may send must not change it."""
    cases = [("", "10.0.0.{}", 429), ("127.0.0.1", "10.0.0.{}", 401)]
    # Some proxies add the port of each connection, and quote what has a colon.
    cases += [("127.0.0.1", one, 429) for one in ("10.0.0.1:50{:03}", '"[2001:db8::1]:50{:03}"')]
    cases.append(("127.0.0.1,10.9.9.9", "10.0.0.1:50{:03}, 10.9.9.9:443", 429))
    for proxies, address, last in cases:
        settings = Settings(_env_file=None, api_key=KEY, trusted_proxies=proxies)
        with served(settings, fakes) as url:
            for at in range(21):
                wrong = f"wrong-and-long-enough-{at}"
                headers = {"X-Forwarded-For": address.format(at), "X-API-Key": wrong}
                answer = httpx.get(f"{url}/v1/models", headers=headers)
            assert answer.status_code == last

"""Behind a proxy with a path prefix: every URL of a response leads back through it."""

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from urllib.parse import urljoin

import httpx
import pytest
from pydantic import ValidationError

from contracts.jobs import Artifact
from contracts.public_paths import PREFIX
from contracts.settings import Settings
from tests.service.parts import FakeServices, gray_png

StartService = Callable[[Settings, FakeServices], AbstractContextManager[str]]
KEY = "a-key-of-sixteen-or-more"
PREFIXED = {"X-Forwarded-Prefix": "/opsin", "X-API-Key": KEY}
ARTIFACT = Artifact(
    name="a.png", media_type="image/png", size=1, url="/v1/jobs/job_1/artifacts/a.png"
)


@pytest.fixture
def proxied(served: StartService, fakes: FakeServices) -> Iterator[httpx.Client]:
    settings = Settings(_env_file=None, api_key=KEY, trusted_proxies="127.0.0.1")
    with served(settings, fakes) as url, httpx.Client(base_url=url, headers=PREFIXED) as client:
        yield client


def test_urls_of_responses_carry_the_prefix(proxied: httpx.Client, fakes: FakeServices) -> None:
    answer = proxied.post("/v1/classify", content=gray_png(), headers={"Prefer": "respond-async"})
    assert answer.headers["Location"] == f"/opsin/v1/jobs/{answer.json()['id']}"
    fakes.jobs.put("job_1", artifacts=[ARTIFACT])
    job = proxied.get("/v1/jobs/job_1").json()
    assert job["artifacts"][0]["url"] == "/opsin/v1/jobs/job_1/artifacts/a.png"
    document = proxied.get("/openapi.json").json()
    assert document["servers"][0]["url"] == "/opsin"
    assert 'href="/opsin/docs"' in proxied.get("/").text


def test_the_documentation_finds_its_files_under_any_prefix(proxied: httpx.Client) -> None:
    page = proxied.get("/docs")
    links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    script = proxied.get("/docs/start.js").text
    links += re.findall(r'url: "([^"]+)"', script)
    for link in links:
        if not link.startswith("data:"):
            seen = urljoin("https://example.org/opsin/docs", link)
            assert seen.startswith("https://example.org/opsin/")
            path = seen.removeprefix("https://example.org/opsin")
            assert proxied.get(path).status_code == 200


def test_a_prefix_by_the_header_is_not_removed_from_the_path(proxied: httpx.Client) -> None:
    """A client may have sent it, to pass the proxy's rules for paths."""
    assert proxied.get("/opsin/v1/models").status_code == 404
    assert proxied.get("/v1/models").status_code == 200


@pytest.mark.parametrize("sent", [{}, {"X-Forwarded-Prefix": "/opsin"}])
def test_a_prefix_of_the_settings_that_the_proxy_left_in_the_path_is_removed(
    served: StartService, fakes: FakeServices, sent: dict[str, str]
) -> None:
    settings = Settings(
        _env_file=None, api_key=KEY, root_path="/opsin", trusted_proxies="127.0.0.1"
    )
    headers = {"X-API-Key": KEY} | sent
    with served(settings, fakes) as url, httpx.Client(base_url=url, headers=headers) as client:
        assert client.get("/opsin/v1/models").status_code == 200
        assert client.get("/opsin").status_code == 200
        assert client.get("/opsinx/v1/models").status_code == 404
        assert client.get("/opsin/v1/keys", headers={"X-API-Key": "wrong"}).status_code == 401


PREFIXES = {
    "/opsin/": "/opsin",
    "/a,/b": "/a/b",
    "/a/b": "/a/b",
    "": "",
    "opsin": "",
    "//evil.example": "",
    "/a/../b": "",
    '/"><script>': "",
    "/v1": "",
    "/" + "a" * 300: "",
}


def test_only_a_plain_path_is_a_prefix(proxied: httpx.Client) -> None:
    for sent, prefix in PREFIXES.items():
        document = proxied.get("/openapi.json", headers={"X-Forwarded-Prefix": sent}).json()
        assert document["servers"][0]["url"] == (prefix or "/"), sent


def test_who_is_no_trusted_proxy_sets_no_prefix(client: httpx.Client) -> None:
    document = client.get("/openapi.json", headers={"X-Forwarded-Prefix": "/opsin"}).json()
    assert document["servers"][0]["url"] == "/"
    assert 'href="docs"' in client.get("/").text


def test_a_prefix_may_be_a_setting(served: StartService, fakes: FakeServices) -> None:
    settings = Settings(_env_file=None, api_key=KEY, root_path="/opsin/")
    with served(settings, fakes) as url, httpx.Client(headers={"X-API-Key": KEY}) as client:
        assert client.get(f"{url}/opsin/v1/models").status_code == 200
        assert client.get(f"{url}/v1/models").status_code == 200
        assert client.get(f"{url}/healthz").status_code == 200
        answer = client.post(f"{url}/v1/datasets", json={"name": "pets"})
        assert answer.headers.get("Location", "/opsin/").startswith("/opsin/")
        assert client.get(f"{url}/openapi.json").json()["servers"][0]["url"] == "/opsin"


@pytest.mark.parametrize("path", ["opsin", "/v1", "/docs/x", "/a b", "//a", "/a/../b"])
def test_a_setting_that_is_no_prefix_stops_the_start(path: str) -> None:
    with pytest.raises(ValidationError):
        Settings(_env_file=None, root_path=path)


def test_without_a_request_urls_have_no_prefix() -> None:
    assert PREFIX.get() == ""
    assert ARTIFACT.model_dump()["url"] == ARTIFACT.url

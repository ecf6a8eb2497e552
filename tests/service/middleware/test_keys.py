from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import httpx
import pytest

from contracts.settings import Settings
from tests.service.parts import House

KEY = "a-key-of-sixteen-or-more"


@pytest.fixture
def locked(
    served: Callable[[Settings, House], AbstractContextManager[str]], house: House
) -> Iterator[httpx.Client]:
    settings = Settings(_env_file=None, api_key=KEY)
    with served(settings, house) as url, httpx.Client(base_url=url) as client:
        yield client


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": f"Bearer {KEY[:-1]}"},
        {"Authorization": f"Basic {KEY}"},
        {"Authorization": KEY},
        {"X-API-Key": KEY + "x"},
        {"X-API-Key": "k\xe4se".encode("latin-1")},
        {"X-API-Key": ""},
    ],
)
def test_without_the_key_nobody_gets_in(locked: httpx.Client, headers: dict[str, str]) -> None:
    for path in ("/v1/models", "/v1/system", "/nowhere"):
        answer = locked.get(path, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert answer.headers["X-Request-Id"] == answer.json()["request_id"]


@pytest.mark.parametrize(
    "headers",
    [{"Authorization": f"Bearer {KEY}"}, {"authorization": f"bearer  {KEY}"}, {"X-API-Key": KEY}],
)
def test_the_key_opens(locked: httpx.Client, headers: dict[str, str]) -> None:
    assert locked.get("/v1/models", headers=headers).status_code == 200


def test_probes_and_documentation_need_none(locked: httpx.Client) -> None:
    for path in ("/healthz", "/readyz", "/docs", "/docs/start.js", "/openapi.json"):
        assert locked.get(path).status_code == 200


def test_the_document_says_that_a_key_is_needed(locked: httpx.Client, client: httpx.Client) -> None:
    keyed = locked.get("/openapi.json").json()
    assert keyed["paths"]["/v1/models"]["get"]["security"] == [{"bearer": []}, {"header": []}]
    assert "401" in keyed["paths"]["/v1/models"]["get"]["responses"]
    assert "security" not in keyed["paths"]["/healthz"]["get"]
    assert "securitySchemes" not in client.get("/openapi.json").json()["components"]

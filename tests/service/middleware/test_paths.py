"""HEAD wherever GET is, and one slash too many."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import httpx
import pytest

from contracts.settings import Settings
from tests.service.parts import FakeServices, gray_png

StartService = Callable[[Settings, FakeServices], AbstractContextManager[str]]


@pytest.mark.parametrize(
    "path",
    [
        *("/healthz", "/readyz", "/v1/models", "/v1/models/squeezenet", "/v1/jobs", "/v1/system"),
        *("/docs", "/openapi.json", "/docs/start.js", "/docs/assets/swagger-ui.css", "/v2"),
        *("/v2/health/live", "/v2/models/squeezenet", "/v1/presets", "/v1/nothing", "/"),
    ],
)
def test_head_is_get_without_the_body(steady: httpx.Client, path: str) -> None:
    get, head = steady.get(path), steady.head(path)
    assert head.status_code == get.status_code
    assert head.content == b""
    varying = {"date", "x-request-id", "etag", "content-length", "transfer-encoding"}
    assert {n: v for n, v in head.headers.items() if n not in varying} == {
        n: v for n, v in get.headers.items() if n not in varying
    }
    assert steady.get("/healthz").status_code == 200, "the connection goes on"


def test_head_of_a_stream_ends_at_once(client: httpx.Client, fakes: FakeServices) -> None:
    fakes.jobs.put("job_1", state="running", attempt=1)
    answer = client.head("/v1/jobs/job_1/events")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/event-stream")


def test_head_where_there_is_no_get_is_405(steady: httpx.Client) -> None:
    answer = steady.head("/v1/classify")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "POST")


def test_head_needs_the_key_that_get_needs(served: StartService, fakes: FakeServices) -> None:
    key = "a-key-of-sixteen-or-more"
    with served(Settings(_env_file=None, api_key=key), fakes) as url:
        assert httpx.head(f"{url}/healthz").status_code == 200
        assert httpx.head(f"{url}/v1/models").status_code == 401
        assert httpx.head(f"{url}/v1/models/").status_code == 401
        assert httpx.get(f"{url}/v1/keys/").status_code == 401
        assert httpx.head(f"{url}/v1/models", headers={"X-API-Key": key}).status_code == 200


@pytest.mark.parametrize("path", ["/healthz", "/v1/models", "/v1/models/squeezenet", "/v2"])
def test_one_slash_at_the_end_is_ignored(steady: httpx.Client, path: str) -> None:
    assert steady.get(f"{path}/").status_code == 200
    assert steady.get(f"{path}//").status_code == 404


def test_a_post_with_a_slash_at_the_end_is_served(steady: httpx.Client) -> None:
    answer = steady.post("/v1/classify/?top_k=1", content=gray_png())
    assert answer.status_code == 200
    assert len(answer.json()["results"][0]["predictions"]) == 1


def test_the_documentation_has_one_url(steady: httpx.Client) -> None:
    answer = steady.get("/docs/")
    assert (answer.status_code, answer.headers["Location"]) == (308, "../docs")

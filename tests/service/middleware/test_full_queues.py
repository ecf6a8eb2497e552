"""What a full queue has just refused is refused again by the queue alone, in the same words."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager

import httpx
import pytest
import structlog

from contracts.errors import ModelNotReady, QueueFull
from contracts.keys import MadeKey, NewKey
from contracts.logs import add_log_fields
from contracts.settings import Settings
from database.audit import COMMAND
from service.http.body import max_request_bytes
from service.middleware import full_queues
from tests.service.middleware.test_access_log import of_status
from tests.service.parts import FakeServices, gray_png

StartService = Callable[[Settings, FakeServices], AbstractContextManager[str]]
PNG = {"Content-Type": "image/png"}
FULL = QueueFull("128 images already wait for this model.", retry_after=3)


@pytest.fixture(autouse=True)
def remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a minute, as a test may be slow."""
    monkeypatch.setattr(full_queues, "_SECONDS", 60.0)


@pytest.fixture
def choices(fakes: FakeServices, monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """The models that requests asked for which were handled in full."""
    asked, choose = list[str | None](), fakes.workers.choose

    def choosing(model: str | None, *arguments: object) -> object:
        asked.append(model)
        return choose(model, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(fakes.workers, "choose", choosing)
    return asked


def refused(
    client: httpx.Client, headers: Mapping[str, str] = PNG, path: str = "/v1/classify"
) -> httpx.Response:
    response = client.post(path, content=gray_png(), headers=headers)
    assert (response.status_code, response.json()["code"]) == (429, "queue_full")
    return response


def test_the_second_refusal_is_like_the_first(
    client: httpx.Client, fakes: FakeServices, choices: list[str | None]
) -> None:
    fakes.dispatcher.full = FULL
    with structlog.testing.capture_logs(processors=[add_log_fields]) as lines:
        first, second = (refused(client, PNG | {"X-Request-Id": one}) for one in ("a", "b"))
    assert len(choices) == 1
    assert second.headers["X-Request-Id"] == "b"
    assert first.json() | {"request_id": "b"} == second.json()
    unlike = {"date", "x-request-id"}
    assert {(name, value) for name, value in first.headers.items() if name not in unlike} == {
        (name, value) for name, value in second.headers.items() if name not in unlike
    }
    one, other = ({**line, "duration_ms": 0} for line in of_status(lines, 429))
    assert {**one, "request_id": "b"} == other


def test_both_are_counted_alike(client: httpx.Client, fakes: FakeServices) -> None:
    fakes.dispatcher.full = FULL
    refused(client)
    once = counts(client)
    for _ in range(2):
        refused(client)
    assert once
    assert counts(client) == {line: 3 * count for line, count in once.items()}


def counts(client: httpx.Client) -> dict[str, float]:
    """What was counted of classifications."""
    text = client.get("/metrics").text
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
    return {
        name: float(value)
        for name, value in lines
        if ('"classify"' in name or "refused" in name)
        and name.split("{")[0].endswith(("_total", "_count"))
        and float(value)
    }


def test_room_is_noticed_at_once(client: httpx.Client, fakes: FakeServices) -> None:
    fakes.dispatcher.full = FULL
    for _ in range(2):
        refused(client)
    fakes.dispatcher.full = None
    assert client.post("/v1/classify", content=gray_png(), headers=PNG).status_code == 200


@pytest.mark.parametrize(
    ("headers", "path"),
    [
        (PNG | {"X-Timeout-Ms": "5000"}, "/v1/classify"),
        (PNG | {"Origin": "http://localhost"}, "/v1/classify"),
        (PNG | {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}, "/v1/classify"),
        (PNG | {"User-Agent": "x" * 3000}, "/v1/classify"),
        (PNG, "/v1/heatmap"),
    ],
)
def test_some_are_always_handled_in_full(
    client: httpx.Client,
    fakes: FakeServices,
    choices: list[str | None],
    headers: Mapping[str, str],
    path: str,
) -> None:
    fakes.dispatcher.full = FULL
    for _ in range(3):
        refused(client, headers, path)
    assert len(choices) == 3


def test_another_request_is_handled_in_full(
    client: httpx.Client, fakes: FakeServices, choices: list[str | None]
) -> None:
    fakes.dispatcher.full = FULL
    refused(client)
    for path, content_type, status in (
        ("/v1/classify?top_k=0", "image/png", 422),
        ("/v1/classify?model=other", "image/png", 404),
        ("/v1/embed", "image/png", 429),
        ("/v1/classify", "image/jpeg", 429),
    ):
        response = client.post(path, content=gray_png(), headers={"Content-Type": content_type})
        assert response.status_code == status
    assert len(choices) == 4


def test_boundaries_of_forms_make_no_difference(
    client: httpx.Client, fakes: FakeServices, choices: list[str | None]
) -> None:
    fakes.dispatcher.full = FULL
    for boundary in "abc":
        refused(client, {"Content-Type": f"multipart/form-data; boundary={boundary}"})
    assert len(choices) == 1


def test_it_is_soon_forgotten(
    client: httpx.Client, fakes: FakeServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(full_queues, "_SECONDS", 0.0)
    fakes.dispatcher.full = FULL
    refused(client)
    monkeypatch.setattr(fakes.workers, "choose", _not_ready)
    response = client.post("/v1/classify", content=gray_png(), headers=PNG)
    assert (response.status_code, response.json()["code"]) == (503, "model_not_ready")


def test_refused_requests_are_let_come_together(
    client: httpx.Client, fakes: FakeServices, waited: list[float]
) -> None:
    fakes.dispatcher.full = FULL
    refused(client)
    assert waited == []  # as it was handled in full
    for _ in range(3):
        refused(client)
    client.get("/healthz")  # after whatever the event loop had to do for them
    assert waited == [full_queues._GATHER_SECONDS] * 3


def test_a_crowd_is_not_made_to_wait(
    client: httpx.Client, fakes: FakeServices, waited: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(full_queues, "_CROWD", 1)
    fakes.dispatcher.full = FULL
    for _ in range(3):
        refused(client)
    client.get("/healthz")
    assert waited == []


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds for which the event loop was stopped."""
    seconds = list[float]()
    monkeypatch.setattr(full_queues, "sleep", seconds.append)
    return seconds


def _not_ready(*_: object) -> object:
    raise ModelNotReady("It is being loaded.", retry_after=1)


@pytest.fixture
def keys(fakes: FakeServices) -> list[MadeKey]:
    """Of two clients, the second with a limit of its rate."""
    table = fakes.with_keys()
    new = [
        NewKey(name="one", scopes=["infer"]),
        NewKey(name="two", scopes=["infer"], rate_per_minute=1000),
    ]
    return [table.create(key, actor=COMMAND) for key in new]


def with_key(key: MadeKey) -> dict[str, str]:
    return PNG | {"X-API-Key": key.key or ""}


@pytest.fixture
def keyed(
    served: StartService, settings: Settings, fakes: FakeServices, keys: list[MadeKey]
) -> Iterator[httpx.Client]:
    with served(settings, fakes) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


def test_nobody_uses_what_is_known_of_another(
    keyed: httpx.Client, fakes: FakeServices, keys: list[MadeKey], choices: list[str | None]
) -> None:
    fakes.dispatcher.full = FULL
    for _ in range(2):
        refused(keyed, with_key(keys[0]))
    assert len(choices) == 1
    for headers in (PNG, PNG | {"X-API-Key": "opsin_" + "0" * 40}):
        response = keyed.post("/v1/classify", content=gray_png(), headers=headers)
        assert response.status_code == 401


def test_a_key_with_a_limited_rate_is_handled_in_full(
    keyed: httpx.Client, fakes: FakeServices, keys: list[MadeKey], choices: list[str | None]
) -> None:
    fakes.dispatcher.full = FULL
    for _ in range(2):
        keyed.post("/v1/classify", content=gray_png(), headers=with_key(keys[1]))
    assert len(choices) == 2


def test_a_revoked_key_is_refused_for_that(
    keyed: httpx.Client, fakes: FakeServices, keys: list[MadeKey]
) -> None:
    fakes.dispatcher.full = FULL
    headers = with_key(keys[0])
    for _ in range(2):
        refused(keyed, headers)
    fakes.keys.revoke(keys[0].id, actor=COMMAND)
    until = time.monotonic() + 30
    while keyed.post("/v1/classify", content=gray_png(), headers=headers).status_code != 401:
        assert time.monotonic() < until
        time.sleep(0.1)


def test_too_large_a_body_is_refused_for_that(
    client: httpx.Client, fakes: FakeServices, settings: Settings
) -> None:
    fakes.dispatcher.full = FULL
    refused(client)
    body = bytes(max_request_bytes(settings) + 1)
    assert client.post("/v1/classify", content=body, headers=PNG).status_code == 413

"""Limits of a key, counted in a real Valkey by two API processes."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace

import httpx
import pytest
from redis.asyncio import Redis

from contracts.keys import NewKey
from contracts.settings import Settings
from database.audit import COMMAND
from models.store.snapshot import ServedVersion
from service.auth import rate_limit
from tests.service.parts import SERVED, FakeServices, gray_png
from tests.valkey import RealValkey

StartService = Callable[[Settings, FakeServices], AbstractContextManager[str]]


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests that Redis answers late on a busy machine would not be counted."""
    monkeypatch.setattr(rate_limit, "_WAIT_SECONDS", 10.0)


@pytest.fixture
def fakes(valkey: RealValkey) -> FakeServices:
    return FakeServices(redis=Redis.from_url(valkey.url, socket_timeout=5))


def key_of(fakes: FakeServices, rate: int | None) -> dict[str, str]:
    new = NewKey(name="a client", scopes=["infer"], rate_per_minute=rate)
    return {"X-API-Key": fakes.with_keys().create(new, actor=COMMAND).key or ""}


def test_a_limit_holds_over_all_processes(
    served: StartService, fakes: FakeServices, valkey: RealValkey
) -> None:
    limited, free = key_of(fakes, 5), key_of(fakes, None)
    other = replace(fakes, redis=Redis.from_url(valkey.url, socket_timeout=5))
    with (
        served(Settings(_env_file=None), fakes) as here,
        served(Settings(_env_file=None), other) as there,
    ):
        answers = [httpx.get(f"{url}/v1/models", headers=limited) for url in [here, there] * 4]
        assert [one.status_code for one in answers] == [200] * 5 + [429] * 3
        refused = answers[-1]
        assert refused.json()["code"] == "rate_limited"
        assert 1 <= int(refused.headers["Retry-After"]) <= 60
        assert refused.headers["RateLimit"].startswith('"key";r=0;t=')
        assert answers[0].headers["RateLimit-Policy"] == '"key";q=5;w=60'
        for _ in range(10):
            answer = httpx.get(f"{here}/v1/models", headers=free)
            assert (answer.status_code, "RateLimit-Policy" in answer.headers) == (200, False)
        # A request that is forbidden does not count against the limit.
        assert httpx.get(f"{here}/v1/keys", headers=limited).status_code == 403


def test_without_redis_requests_are_neither_refused_nor_delayed(
    served: StartService, fakes: FakeServices, valkey: RealValkey
) -> None:
    limited = key_of(fakes, 1)
    with served(Settings(_env_file=None), fakes) as url:
        assert httpx.get(f"{url}/v1/models", headers=limited).status_code == 200
        assert httpx.get(f"{url}/v1/models", headers=limited).status_code == 429
        valkey.kill()
        try:
            began = time.monotonic()
            for _ in range(3):
                assert httpx.get(f"{url}/v1/models", headers=limited).status_code == 200
            assert time.monotonic() - began < 30
        finally:
            valkey.start()


def test_a_request_for_several_models_counts_as_many(
    served: StartService, fakes: FakeServices
) -> None:
    limited = key_of(fakes, 4)
    fakes.workers.others = {
        name: ServedVersion(SERVED.manifest.model_copy(update={"model": name}), SERVED.labels)
        for name in ("cats", "dogs")
    }
    path = "/v1/classify?model=squeezenet&model=cats&model=dogs"
    headers = limited | {"Content-Type": "image/png"}
    with served(Settings(_env_file=None), fakes) as url:
        answers = [httpx.post(url + path, content=gray_png(), headers=headers) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [200, 429], answers[0].text
        assert answers[1].json()["code"] == "rate_limited"


def test_more_models_than_a_key_may_ask_in_a_minute_are_told_so(
    served: StartService, fakes: FakeServices
) -> None:
    fakes.workers.others = {
        "cats": ServedVersion(SERVED.manifest.model_copy(update={"model": "cats"}), SERVED.labels)
    }
    headers = key_of(fakes, 1) | {"Content-Type": "image/png"}
    with served(Settings(_env_file=None), fakes) as url:
        path = f"{url}/v1/classify?model=squeezenet&model=cats"
        answer = httpx.post(path, content=gray_png(), headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (422, "validation_error")
        assert "may send 1 a minute" in answer.json()["detail"]

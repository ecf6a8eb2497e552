import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

import httpx
import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families

from contracts.inference.registry import ModelInfo
from contracts.queue.heartbeat import WorkerBeat
from contracts.settings import RELEASE, Settings
from database.jobs.queries import JobCounts
from tests.service.parts import FakeServices

StartService = Callable[[Settings, FakeServices], AbstractContextManager[str]]


def test_health(client: httpx.Client) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v1/system"), ("GET", "/metrics"), ("POST", "/v2/repository/index")],
)
def test_what_grows_with_the_models_is_made_once_for_all_who_ask(
    client: httpx.Client, fakes: FakeServices, method: str, path: str
) -> None:
    models, calls = fakes.workers.models(), list[float]()

    def slow() -> list[ModelInfo]:
        calls.append(time.monotonic())
        time.sleep(0.05)
        return models

    fakes.workers.models = slow  # type: ignore[method-assign]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: client.request(method, path), range(16)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.text for answer in answers}) <= 4
    assert len(calls) <= 16, "of the metrics, each making looks four times"


def test_readiness(client: httpx.Client) -> None:
    answer = client.get("/readyz")
    assert answer.status_code == 200
    assert answer.json() | {"detail": None, "loading": []} == {
        "ready": True,
        "redis": "ok",
        "database": "ok",
        "worker": "ok",
        "loading": [],
        "detail": None,
        "warnings": [],
    }


def test_readiness_warns_of_clocks_that_differ(client: httpx.Client, fakes: FakeServices) -> None:
    fakes.workers.clock.host_ahead = -65.0
    beat = fakes.workers.workers[0]
    fakes.workers.workers = (beat.model_copy(update={"clock_ahead": 4.0}), beat)
    answer = client.get("/readyz")
    api, worker = answer.json()["warnings"]
    assert (answer.status_code, "65 s behind" in api, "4 s ahead" in worker) == (200, True, True)
    assert beat.host not in worker.split()


def _loading(beat: WorkerBeat) -> tuple[WorkerBeat, ...]:
    held = beat.models[0].model_copy(update={"state": "loading", "operations": ()})
    return (beat.model_copy(update={"models": (held,)}),)


@pytest.mark.parametrize(
    ("break_it", "expected"),
    [
        (lambda h: setattr(h.workers, "redis_ok", False), {"redis": "unreachable"}),
        (lambda h: setattr(h, "database", False), {"database": "unreachable"}),
        (lambda h: h.unread.append("keys"), {"database": "ok", "redis": "ok"}),
        (lambda h: setattr(h.workers, "workers", ()), {"worker": "none"}),
        (
            lambda h: setattr(h.workers, "workers", _loading(h.workers.workers[0])),
            {"worker": "loading"},
        ),
    ],
    ids=["redis", "database", "unread change", "no worker", "loading"],
)
def test_readiness_names_what_does_not_respond(
    client: httpx.Client, fakes: FakeServices, break_it: Any, expected: dict[str, str]
) -> None:
    break_it(fakes)
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json().items() >= ({"ready": False} | expected).items()
    assert answer.json()["detail"]


def test_readiness_of_one_network(client: httpx.Client, fakes: FakeServices) -> None:
    models = {m["name"]: m["state"] for m in client.get("/v1/models").json()["items"]}
    ready = next(name for name, state in models.items() if state == "ready")
    assert client.get("/readyz", params={"model": ready}).status_code == 200
    answer = client.get("/readyz", params={"model": "pets-of-somebody"})
    assert answer.status_code == 503
    assert "pets-of-somebody" in answer.json()["detail"]
    loading = client.get("/readyz").json()["loading"]
    assert loading == [name for name, state in models.items() if state == "loading"]


def test_the_system_at_a_glance(client: httpx.Client) -> None:
    system = client.get("/v1/system").json()
    assert (system["version"], system["devices"]) == (RELEASE, ["CPU"])
    assert [model["name"] for model in system["models"]][1] == "squeezenet"
    assert system["queues"][0]["name"] == "lane:squeezenet:1:classify"


def test_metrics_are_in_the_format_of_prometheus(client: httpx.Client) -> None:
    answer = client.get("/metrics")
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    assert "opsin_ready" in families
    samples = [line for line in answer.text.splitlines() if not line.startswith("#")]
    for line in (
        "opsin_ready 1.0",
        'opsin_part_ready{part="redis"} 1.0',
        'opsin_workers{kind="inference"} 1.0',
        'opsin_model_ready{model="squeezenet"} 1.0',
        'opsin_model_ready{model="vgg16"} 0.0',
        'opsin_queue_images{model="squeezenet",operation="classify",version="1"} 0.0',
        'opsin_jobs{operation="training",queue="training",state="queued"} 2.0',
        'opsin_job_queue_age_seconds{queue="training"} 7.5',
    ):
        assert line in samples


def test_metrics_are_in_openmetrics_if_preferred(client: httpx.Client) -> None:
    accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
    answer = client.get("/metrics", headers={"Accept": accept})
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert answer.text.endswith("# EOF\n")
    assert "opsin_ready" in {family.name for family in openmetrics_families(answer.text)}


def test_scrapes_at_once_count_the_jobs_together(
    client: httpx.Client, fakes: FakeServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All rows of jobs are counted, and there may be hundreds of thousands."""
    running, most = list[int](), list[int]()
    counts = fakes.jobs.counts

    def counted() -> JobCounts:
        running.append(1)
        most.append(len(running))
        time.sleep(0.05)
        running.pop()
        return counts()

    monkeypatch.setattr(fakes.jobs, "counts", counted)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.get("/metrics"), range(8)))
    assert all("opsin_jobs{" in answer.text for answer in answers)
    assert max(most) == 1


def test_metrics_need_a_key(served: StartService, fakes: FakeServices) -> None:
    key = "a-key-of-sixteen-or-more"
    with served(Settings(_env_file=None, api_key=key), fakes) as url:
        assert httpx.get(f"{url}/metrics").status_code == 401
        assert httpx.get(f"{url}/metrics", headers={"X-API-Key": key}).status_code == 200

"""What one API process acknowledges holds for the next request to any other."""

import itertools
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from contracts.inference.manifest import Draft
from models.store.store import Store
from tests.flow.conftest import Networks
from tests.flow.installation import Installation
from tests.images import encoded, scene
from tests.ports import free_port

MODEL = "efficientnet_lite0"
ADMIN = "the-admin-of-this-test"
IMAGE = encoded(scene(), "PNG")
ROUNDS = 8


@dataclass
class Service:
    """Three API processes of one installation. Each request goes to one, over a new connection."""

    urls: list[str]
    turns: Iterator[int] = field(default_factory=itertools.count)

    def send(self, method: str, path: str, at: int, key: str = ADMIN, **extra: Any) -> Any:
        headers = {"X-API-Key": key} | extra.pop("headers", {})
        url = self.urls[at % len(self.urls)] + path
        return httpx.request(method, url, headers=headers, timeout=40, **extra)

    def pair(self) -> tuple[int, int]:
        """The process that writes and another one that reads; over time, all pairs."""
        turn = next(self.turns)
        return turn % 3, (turn % 3 + 1 + turn // 3 % 2) % 3

    def classify(self, at: int, **params: Any) -> Any:
        headers = {"Content-Type": "image/png"}
        query = {"model": MODEL} | params
        return self.send("POST", "/v1/classify", at, params=query, content=IMAGE, headers=headers)

    def promote(self, at: int, version: int, alias: str = "champion") -> Any:
        body = {"alias": alias, "version": version}
        return self.send("POST", f"/v1/models/{MODEL}/aliases", at, json=body)


@pytest.fixture(scope="module")
def service(
    fetched_home: Path, networks: Networks, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    home = tmp_path_factory.mktemp("three") / "home"
    env = {"OPSIN_MODELS": MODEL, "OPSIN_API_KEY": ADMIN}
    installation = Installation(home, fetched_home / "weights", env, store=networks(MODEL))
    for _ in range(2):  # versions 2 and 3
        copy_version(Store(home / "store"), MODEL)
    ports = [free_port(), free_port()]
    urls = [installation.url, *(f"http://127.0.0.1:{port}" for port in ports)]
    try:
        installation.start()
        for number, port in enumerate(ports):
            installation.run(f"api-{number}", "serve", OPSIN_PORT=str(port))
        for url in urls:
            installation.wait_until(
                lambda url=url: httpx.get(f"{url}/readyz", timeout=5).status_code == 200,  # type: ignore[misc]
                60,
            )
        yield Service(urls)
    finally:
        installation.close()


def copy_version(store: Store, model: str) -> int:
    """Publish version 1 again under the next number."""
    origin = store.path(model, 1)
    with store.staging() as folder:
        for path in origin.iterdir():
            if path.name not in {"manifest.json", "derived"}:
                copy: Callable[..., Any] = shutil.copytree if path.is_dir() else shutil.copy
                copy(path, folder / path.name)
        draft = Draft.model_validate(store.manifest(model, 1).model_dump())
        return store.publish(model, folder, draft)


def alternate(service: Service, rounds: int) -> list[str]:
    """Promote the other version again and again; every answer by another one is a line."""
    assert service.promote(0, 1, "first").status_code == 200
    assert service.promote(0, 2, "second").status_code == 200
    wrong = []
    for turn in range(rounds):
        writer, reader = service.pair()
        version = 2 - turn % 2
        answer = service.promote(writer, version)
        if answer.status_code != 200:
            wrong.append(f"{turn}: promotion {answer.status_code} {answer.text}")
            continue
        for at in (reader, writer):
            read = service.classify(at)
            if read.status_code != 200 or read.json()["version"] != version:
                wrong.append(f"{turn}: {writer} to {at}: {read.status_code} {read.text[:200]}")
    return wrong


def test_a_promoted_version_answers_the_next_request_everywhere(service: Service) -> None:
    assert alternate(service, 20) == []


@pytest.mark.slow
def test_a_thousand_promotions_answer_the_next_request_everywhere(service: Service) -> None:
    assert alternate(service, 1000) == []


def test_an_alias_exists_and_is_gone_everywhere(service: Service) -> None:
    for _ in range(ROUNDS):
        writer, reader = service.pair()
        assert service.promote(writer, 1, "canary").status_code == 200
        assert service.classify(reader, version="canary").status_code == 200
        path = f"/v1/models/{MODEL}/aliases/canary"
        assert service.send("DELETE", path, writer).status_code == 204
        assert service.classify(reader, version="canary").status_code == 404
        assert "canary" not in service.send("GET", f"/v1/models/{MODEL}", reader).json()["aliases"]


def test_a_key_works_and_ends_everywhere(service: Service) -> None:
    def status(at: int, key: str) -> int:
        return int(service.send("GET", "/v1/models", at, key=key).status_code)

    for _ in range(ROUNDS):
        writer, reader = service.pair()
        new = {"name": "a client", "scopes": ["infer"]}
        made = service.send("POST", "/v1/keys", writer, json=new).json()
        assert status(reader, made["key"]) == 200
        rotation = f"/v1/keys/{made['id']}/rotate"
        rotated = service.send("POST", rotation, writer, json={"grace_seconds": 0}).json()
        assert [status(reader, made["key"]), status(reader, rotated["key"])] == [401, 200]
        assert service.send("DELETE", f"/v1/keys/{rotated['id']}", writer).status_code == 204
        assert status(reader, rotated["key"]) == 401


def test_a_deleted_version_is_gone_everywhere(service: Service) -> None:
    writer, reader = service.pair()
    assert service.send("DELETE", f"/v1/models/{MODEL}/versions/3", writer).status_code == 204
    assert 3 not in service.send("GET", f"/v1/models/{MODEL}", reader).json()["versions"]
    assert service.classify(reader, version="3").json()["code"] == "version_not_found"


def test_records_are_the_same_everywhere(service: Service) -> None:
    for turn in range(ROUNDS):
        writer, reader = service.pair()
        threshold = {"similarity": 0.4 + turn / 100, "margin": 0.05}
        assert service.send("PUT", "/v1/faces/threshold", writer, json=threshold).status_code == 200
        read = service.send("GET", "/v1/faces/threshold", reader).json()
        assert read["similarity"] == threshold["similarity"]
        for path, body in (
            ("/v1/datasets", {"name": f"set-{turn}"}),
            ("/v1/faces/subjects", {"name": f"person {turn}"}),
        ):
            made = service.send("POST", path, writer, json=body).json()
            one = f"{path}/{made['id']}"
            assert service.send("GET", one, reader).json()["name"] == body["name"]
            assert service.send("DELETE", one, writer).status_code in {200, 204}
            assert service.send("GET", one, reader).status_code == 404

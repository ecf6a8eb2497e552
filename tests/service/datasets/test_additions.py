"""A request that adds images changes everything or nothing, whatever fails in between."""

import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from contracts.errors import Unavailable
from database.datasets import DatasetRows
from database.engine import open_engine
from database.idempotency import IdempotencyKey, StoredResponse
from database.tables import Record
from models.datasets.archives.limits import Limits
from models.datasets.dataset import Dataset
from models.datasets.store import DEFAULT_FRACTIONS, DatasetStore
from service.datasets.service import Datasets
from tests.models.datasets.packing import photo
from tests.service.parts import FakeServices, datasets_in

URL = "/v1/datasets"
PNG = {"Content-Type": "image/png"}


@pytest.fixture
def fakes(tmp_path: Path) -> FakeServices:
    datasets = datasets_in(tmp_path, Limits(free_bytes=0))
    engine = open_engine(f"sqlite:///{tmp_path / 'opsin.db'}")
    Record.metadata.create_all(engine)
    engine.dispose()
    return FakeServices(datasets=datasets)


@pytest.fixture
def address(client: httpx.Client) -> str:
    return f"{URL}/{client.post(URL, json={'name': 'x'}).json()['id']}"


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[None]:
    """Another process holds the database's write lock."""
    with closing(sqlite3.connect(tmp_path / "opsin.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


def send(client: httpx.Client, address: str, number: int, **options: Any) -> httpx.Response:
    headers = PNG | options.pop("headers", {})
    return client.post(
        f"{address}/images",
        params={"label": "cat"},
        content=photo(number),
        headers=headers,
        timeout=30,
        **options,
    )


def seen(fakes: FakeServices, address: str) -> tuple[Dataset, int]:
    store, dataset_id = fakes.datasets.store, address.rsplit("/", maxsplit=1)[-1]
    listing = store.listing(dataset_id)
    assert fakes.datasets.rows.get(dataset_id) == listing.info
    return store.load(dataset_id), len(listing.files)


def create(datasets: Datasets) -> dict[str, Any]:
    return datasets.create(
        "pets",
        None,
        DEFAULT_FRACTIONS,
        progress=lambda *_: None,
        idempotency=IdempotencyKey("k", "dataset", "d" * 64),
    )


def test_a_refused_image_is_not_in_the_dataset(
    client: httpx.Client, fakes: FakeServices, address: str, request: pytest.FixtureRequest
) -> None:
    key = {"Idempotency-Key": "k"}
    assert send(client, address, 1).status_code == 201
    request.getfixturevalue("locked")
    refused = send(client, address, 2, headers=key)
    assert (refused.status_code, refused.json()["code"]) == (503, "dependency_unavailable")
    data, count = seen(fakes, address)
    assert (len(data.examples), count) == (1, 1)


def test_the_retry_of_a_refused_image_adds_it_once(
    client: httpx.Client, fakes: FakeServices, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies after the images are part of the dataset, and before the database knows."""
    change = type(fakes.datasets.rows).change

    def die(*arguments: Any, **options: Any) -> None:
        arguments[4]()
        raise Unavailable("The database does not answer.", retry_after=1)

    key = {"Idempotency-Key": "k"}
    monkeypatch.setattr(type(fakes.datasets.rows), "change", die)
    assert send(client, address, 1, headers=key).status_code == 503
    monkeypatch.setattr(type(fakes.datasets.rows), "change", change)
    again = [send(client, address, 1, headers=key) for _ in range(2)]
    assert [answer.status_code for answer in again] == [201, 201]
    assert [answer.json()["files"][0]["status"] for answer in again] == ["admitted"] * 2
    other = send(client, address, 2, headers=key)
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_conflict")
    data, count = seen(fakes, address)
    assert (len(data.examples), count) == (1, 1)


def test_of_two_requests_with_one_key_only_one_adds(
    client: httpx.Client, fakes: FakeServices, address: str
) -> None:
    key = {"Idempotency-Key": "k"}
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda n: send(client, address, n, headers=key), (1, 2)))
    assert sorted(answer.status_code for answer in both) == [201, 409]
    data, count = seen(fakes, address)
    assert (len(data.examples), count) == (1, 1)


def test_an_image_after_the_deadline_is_not_added(
    client: httpx.Client, fakes: FakeServices, address: str
) -> None:
    with fakes.datasets.store.lock(address.rsplit("/", maxsplit=1)[-1]):
        late = send(client, address, 1, headers={"X-Timeout-Ms": "300"}, follow_redirects=True)
    assert late.status_code in {503, 504}
    assert seen(fakes, address)[1] == 0


def test_an_image_whose_addition_takes_too_long_is_not_added(
    client: httpx.Client, fakes: FakeServices, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it may in a dataset of a hundred thousand images."""
    monkeypatch.setattr("service.datasets.service.require_mounted", lambda _: time.sleep(1.1))
    late = send(client, address, 1, headers={"X-Timeout-Ms": "1000"})
    assert (late.status_code, late.json()["code"]) == (504, "deadline_exceeded")
    assert seen(fakes, address)[1] == 0


def test_the_retry_of_a_killed_creation_makes_no_second_dataset(
    client: httpx.Client, fakes: FakeServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any, **__: Any) -> None:
        raise SystemExit

    datasets = fakes.datasets
    body = {"name": "pets"}
    with monkeypatch.context() as patch:
        # As if the process were killed: nothing is cleaned up.
        patch.setattr(type(datasets.rows), "put", die)
        patch.setattr(type(datasets.store), "delete", lambda *_, **__: None)
        with pytest.raises(SystemExit):
            create(datasets)
    assert len(datasets.store.ids()) == 1
    again = [create(datasets) for _ in range(2)]
    assert again[0] == again[1]
    assert datasets.store.ids() == [again[0]["id"]]
    assert datasets.rows.get(again[0]["id"]).model_dump(mode="json") == again[0]
    other = {"Idempotency-Key": "other"}
    with ThreadPoolExecutor(4) as pool:
        both = list(pool.map(lambda _: client.post(URL, json=body, headers=other), range(4)))
    assert len({answer.json()["id"] for answer in both}) == 1
    assert len(datasets.store.ids()) == 2


def test_a_simultaneous_request_that_is_a_little_ahead_gives_its_dataset(
    fakes: FakeServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = fakes.datasets
    stored_response, others = type(datasets.rows).stored_response, []

    def overtaken(rows: DatasetRows, key: IdempotencyKey) -> StoredResponse | None:
        answer = stored_response(rows, key)
        monkeypatch.undo()
        with monkeypatch.context() as patch:  # the other one has placed its folder, and no row
            patch.setattr(type(datasets.rows), "put", lambda *_, **__: None)
            others.append(create(datasets))
        return answer

    monkeypatch.setattr(type(datasets.rows), "stored_response", overtaken)
    assert create(datasets) == others[0]
    assert datasets.store.ids() == [others[0]["id"]]


def test_a_dataset_that_goes_while_its_request_is_repeated_is_no_error(
    fakes: FakeServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = fakes.datasets
    first = create(datasets)
    exists = type(datasets.store).exists

    def deleted_meanwhile(store: DatasetStore, dataset_id: str) -> bool:
        was_there = exists(store, dataset_id)
        monkeypatch.undo()
        datasets.delete(dataset_id)
        return was_there

    monkeypatch.setattr(type(datasets.store), "exists", deleted_meanwhile)
    assert create(datasets) == first

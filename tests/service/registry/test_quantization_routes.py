from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import pytest

from contracts.keys import NewKey
from contracts.settings import Settings
from database.audit import COMMAND
from database.engine import open_engine
from database.tables import Record
from models.store.store import Store
from tests.models.drafts import DRAFT, write_files
from tests.service.parts import House, datasets_in

Served = Callable[[Settings, House], AbstractContextManager[str]]
URL = "/v1/models/squeezenet/versions/1/quantize"


@pytest.fixture
def house(tmp_path: Path) -> House:
    engine = open_engine(f"sqlite:///{tmp_path / 'opsin.db'}")
    Record.metadata.create_all(engine)
    engine.dispose()
    return House(datasets=datasets_in(tmp_path))


@pytest.fixture
def store(house: House) -> Store:
    """Version 1 in float32, version 2 its int8 copy."""
    for draft in (DRAFT, DRAFT.model_copy(update={"precision": "int8"})):
        with house.store.staging() as folder:
            write_files(folder)
            house.store.publish("squeezenet", folder, draft)
    return house.store


@pytest.fixture
def dataset(client: httpx.Client) -> str:
    answer = client.post("/v1/datasets", json={"name": "pets"})
    assert answer.status_code == 201
    return str(answer.json()["id"])


def test_it_is_a_job_and_the_same_key_the_same_one(
    client: httpx.Client, store: Store, dataset: str
) -> None:
    body = {"dataset_id": dataset, "max_accuracy_loss": 0.02, "promote": False}
    headers = {"Idempotency-Key": "once"}
    first = client.post(URL, json=body, headers=headers)
    assert (first.status_code, first.json()["kind"]) == (202, "quantize")
    assert first.headers["Location"] == f"/v1/jobs/{first.json()['id']}"
    assert client.post(URL, json=body, headers=headers).json()["id"] == first.json()["id"]
    other = client.post(URL, json=body | {"promote": True}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_conflict")


@pytest.mark.parametrize(
    ("url", "change", "status", "code"),
    [
        (URL, {"dataset_id": "ds_none"}, 404, "dataset_not_found"),
        (URL.replace("squeezenet", "nonesuch"), {}, 404, "model_not_found"),
        (URL.replace("/1/", "/9/"), {}, 404, "version_not_found"),
        (URL.replace("/1/", "/2/"), {}, 422, "not_trainable"),
        (URL, {"max_accuracy_loss": 2}, 422, "validation_error"),
        (URL, {"max_loss": 0.1}, 422, "validation_error"),
    ],
)
def test_what_cannot_be_quantized(
    *,
    client: httpx.Client,
    store: Store,
    dataset: str,
    url: str,
    change: dict[str, object],
    status: int,
    code: str,
) -> None:
    answer = client.post(url, json={"dataset_id": dataset} | change)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_who_may_only_train_does_not_change_a_published_network(
    served: Served, house: House, store: Store
) -> None:
    table = house.with_keys()
    train, both = (
        {"X-API-Key": table.create(NewKey(name="n", scopes=scopes), by=COMMAND).key or ""}
        for scopes in (["train"], ["train", "models"])
    )
    with served(Settings(_env_file=None), house) as url, httpx.Client(base_url=url) as client:
        made = client.post("/v1/datasets", json={"name": "pets"}, headers=train)
        told = {"dataset_id": made.json()["id"]}
        for body in (told, told | {"promote": True}):
            refused = client.post(URL, json=body, headers=train)
            assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
            assert "`models`" in refused.json()["detail"]
        assert house.shelf.worked == []
        quiet = client.post(URL, json=told | {"promote": False}, headers=train)
        assert quiet.status_code == 202
        loud = client.post(URL, json=told, headers=both)
        assert loud.status_code == 202
        lines = house.audit.list(action="promotion_asked").items
    assert [one.subject for one in lines] == [f"squeezenet by {loud.json()['id']}"]
    assert lines[0].actor.startswith("key_")

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
from tests.service.parts import FakeServices, datasets_in

StartService = Callable[[Settings, FakeServices], AbstractContextManager[str]]
URL = "/v1/models/squeezenet/versions/1/quantize"


@pytest.fixture
def fakes(tmp_path: Path) -> FakeServices:
    engine = open_engine(f"sqlite:///{tmp_path / 'opsin.db'}")
    Record.metadata.create_all(engine)
    engine.dispose()
    return FakeServices(datasets=datasets_in(tmp_path))


@pytest.fixture
def store(fakes: FakeServices) -> Store:
    """Version 1 in float32 and version 2, its int8 copy."""
    for draft in (DRAFT, DRAFT.model_copy(update={"precision": "int8"})):
        with fakes.store.staging() as folder:
            write_files(folder)
            fakes.store.publish("squeezenet", folder, draft)
    return fakes.store


@pytest.fixture
def dataset(client: httpx.Client) -> str:
    answer = client.post("/v1/datasets", json={"name": "pets"})
    assert answer.status_code == 201
    return str(answer.json()["id"])


def test_a_repeated_key_returns_the_first_job(
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
    store.delete("squeezenet", 1)
    assert client.post(URL, json=body, headers=headers).json()["id"] == first.json()["id"]


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
def test_an_impossible_quantization_is_refused(
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


def test_a_train_key_may_not_promote_in_a_published_network(
    served: StartService, fakes: FakeServices, store: Store
) -> None:
    table = fakes.with_keys()
    train, both = (
        {"X-API-Key": table.create(NewKey(name="n", scopes=scopes), actor=COMMAND).key or ""}
        for scopes in (["train"], ["train", "models"])
    )
    with served(Settings(_env_file=None), fakes) as url, httpx.Client(base_url=url) as client:
        made = client.post("/v1/datasets", json={"name": "pets"}, headers=train)
        told = {"dataset_id": made.json()["id"]}
        for body in (told, told | {"promote": True}):
            refused = client.post(URL, json=body, headers=train)
            assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
            assert "`models`" in refused.json()["detail"]
        assert fakes.jobs.worked == []
        quiet = client.post(URL, json=told | {"promote": False}, headers=train)
        assert quiet.status_code == 202
        loud = client.post(URL, json=told, headers=both)
        assert loud.status_code == 202
        lines = fakes.audit.list(action="promotion_asked").items
    assert [one.subject for one in lines] == [f"squeezenet by {loud.json()['id']}"]
    assert lines[0].actor.startswith("key_")

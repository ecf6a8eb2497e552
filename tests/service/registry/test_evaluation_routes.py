import io
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import pytest

from contracts.keys import NewKey
from contracts.settings import Settings
from database.audit import COMMAND
from models.store.labels import Label, write_labels
from models.store.store import Store
from service.registry import evaluation_routes
from tests.models.datasets.packing import tree, zipped
from tests.models.drafts import DRAFT, write_files
from tests.service.parts import FakeServices, datasets_in, face_services_in

StartService = Callable[[Settings, FakeServices], AbstractContextManager[str]]
URL = "/v1/models/squeezenet/versions/1/evaluations"


@pytest.fixture
def fakes(tmp_path: Path) -> FakeServices:
    return FakeServices(
        faces=face_services_in(tmp_path, tables=True), datasets=datasets_in(tmp_path)
    )


@pytest.fixture
def store(fakes: FakeServices) -> Store:
    """Versions 1 and 2 of cats and dogs, 3 of fish, and 4, which is no classifier."""
    for number, names in enumerate(["cat dog", "cat dog", "pike eel", "cat dog"], 1):
        draft = DRAFT if number < 4 else DRAFT.model_copy(update={"endpoints": ("features",)})
        with fakes.store.staging() as folder:
            write_files(folder)
            write_labels(folder, [Label(name, name) for name in names.split()])
            fakes.store.publish("squeezenet", folder, draft)
    return fakes.store


@pytest.fixture
def dataset(client: httpx.Client, store: Store) -> str:
    archive = io.BytesIO(zipped(tree({"cat": 5, "Dog": 5, "cow": 2})))
    answer = client.post(
        "/v1/datasets?validation=0&test=0", data={"name": "pets"}, files={"archive": archive}
    )
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def test_a_repeated_key_returns_the_first_evaluation(client: httpx.Client, dataset: str) -> None:
    body = {"dataset_id": dataset, "against": 2, "split": "train"}
    headers = {"Idempotency-Key": "once"}
    first = client.post(URL, json=body, headers=headers)
    assert (first.status_code, first.json()["kind"]) == (202, "evaluation")
    assert first.headers["Location"] == f"/v1/jobs/{first.json()['id']}"
    assert client.post(URL, json=body, headers=headers).json()["id"] == first.json()["id"]
    other = client.post(URL, json=body | {"against": None}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_conflict")
    assert client.delete(f"/v1/datasets/{dataset}").status_code == 204
    assert client.post(URL, json=body, headers=headers).json()["id"] == first.json()["id"]


@pytest.mark.parametrize(
    ("url", "change", "status", "code", "word"),
    [
        (URL, {"dataset_id": "ds_none"}, 404, "dataset_not_found", "dataset"),
        (URL.replace("squeezenet", "nonesuch"), {}, 404, "model_not_found", "nonesuch"),
        (URL.replace("/1/", "/9/"), {}, 404, "version_not_found", "9"),
        (URL, {"against": 9}, 404, "version_not_found", "9"),
        (URL, {"against": 1}, 422, "validation_error", "another"),
        (URL, {"split": "validation"}, 422, "validation_error", "train (12)"),
        (URL, {"splits": "test"}, 422, "validation_error", ""),
        (URL.replace("/1/", "/3/"), {}, 422, "not_trainable", "pike"),
        (URL, {"against": 3}, 422, "not_trainable", "pike"),
        (URL.replace("/1/", "/4/"), {}, 422, "not_trainable", "classifier"),
    ],
)
def test_an_impossible_evaluation_is_refused(
    *,
    client: httpx.Client,
    dataset: str,
    url: str,
    change: dict[str, object],
    status: int,
    code: str,
    word: str,
) -> None:
    answer = client.post(url, json={"dataset_id": dataset} | change)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert word in answer.text


def test_a_version_that_recognizes_people_needs_the_scope_faces(
    served: StartService, fakes: FakeServices, store: Store
) -> None:
    spec = {"subjects": ["sub_a", "sub_b"]}
    provenance = DRAFT.provenance.model_copy(update={"spec": spec})
    with fakes.store.staging() as folder:
        write_files(folder)
        write_labels(folder, [Label(name, name) for name in ("cat", "dog")])
        version = fakes.store.publish(
            "squeezenet", folder, DRAFT.model_copy(update={"provenance": provenance})
        )
    table = fakes.with_keys()
    train, both = (
        {"X-API-Key": table.create(NewKey(name="n", scopes=scopes), actor=COMMAND).key or ""}
        for scopes in (["train"], ["train", "faces"])
    )
    archive = {"archive": ("pets.zip", zipped(tree({"cat": 5, "dog": 5})))}
    with served(Settings(_env_file=None), fakes) as url, httpx.Client(base_url=url) as client:
        made = client.post("/v1/datasets", files=archive, headers=train)
        body = {"dataset_id": made.json()["id"]}
        assert client.post(URL, json=body, headers=train).status_code == 202
        for sent in ({"against": version}, {}):
            path = URL if sent else URL.replace("/1/", f"/{version}/")
            refused = client.post(path, json=body | sent, headers=train)
            assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
            assert client.post(path, json=body | sent, headers=both).status_code == 202


def test_without_room_nothing_is_checked(
    client: httpx.Client, fakes: FakeServices, dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes.jobs.is_full = True
    monkeypatch.setattr(evaluation_routes, "_check", None)
    answer = client.post(URL, json={"dataset_id": dataset})
    assert (answer.status_code, answer.json()["code"]) == (429, "queue_full"), answer.text

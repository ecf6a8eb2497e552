"""What `/v1/trainings` accepts, refuses and queues, over a socket."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest

from contracts.inference.manifest import Provenance
from contracts.keys import NewKey, Scope
from contracts.settings import Settings
from database.audit import COMMAND
from database.engine import open_engine
from database.tables import Record
from models.store.labels import Label, write_labels
from models.training.presets import PRESETS
from tests.models.datasets.packing import tree, zipped
from tests.models.drafts import DRAFT, write_files
from tests.service.parts import FakeServices, datasets_in

URL = "/v1/trainings"


@pytest.fixture
def fakes(tmp_path: Path) -> FakeServices:
    fakes = FakeServices(datasets=datasets_in(tmp_path))
    engine = open_engine(f"sqlite:///{tmp_path / 'opsin.db'}")
    Record.metadata.create_all(engine)
    engine.dispose()
    return fakes


@pytest.fixture
def pets(client: httpx.Client) -> str:
    archive = {"archive": ("pets.zip", zipped(tree({"cat": 8, "dog": 6})))}
    made: str = client.post("/v1/datasets", files=archive).json()["id"]
    return made


def body(dataset_id: str, **more: Any) -> dict[str, Any]:
    return {"dataset_id": dataset_id, "model": "pets", "network": "squeezenet"} | more


def test_a_training_is_queued_with_all_parameters(
    client: httpx.Client, fakes: FakeServices, pets: str
) -> None:
    answer = client.post(URL, json=body(pets))
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert answer.headers["Location"] == f"/v1/jobs/{job['id']}"
    assert (job["kind"], job["state"]) == ("training", "queued")
    ((kind, request, inputs),) = fakes.jobs.worked
    assert (kind, inputs) == ("training", {})
    assert request["strategy"] == "feature_extraction"
    assert request["head"] is None


def test_a_training_that_may_promote_is_in_the_audit_log(
    client: httpx.Client, fakes: FakeServices, pets: str
) -> None:
    fakes.with_keys()
    assert client.post(URL, json=body(pets, promote="never")).status_code == 202
    asked = client.post(URL, json=body(pets)).json()
    (line,) = fakes.audit.list(action="promotion_asked").items
    assert (line.subject, line.actor) == (f"pets by {asked['id']}", "open")


def test_a_preset_fills_in_what_is_not_sent(
    client: httpx.Client, fakes: FakeServices, pets: str
) -> None:
    sent = {"dataset_id": pets, "model": "pets", "preset": "cats_dogs_scratch", "batch_size": 7}
    assert client.post(URL, json=sent).status_code == 202
    _, request, _ = fakes.jobs.worked[0]
    assert request["network"] == PRESETS["cats_dogs_scratch"].request["network"]
    assert (request["strategy"], request["batch_size"]) == ("from_scratch", 7)


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"dataset_id": "ds_nonesuch"}, 404, "dataset_not_found"),
        ({"dataset_id": "../../etc"}, 422, "validation_error"),
        ({"model": "vgg16"}, 422, "validation_error"),
        ({"model": "../x"}, 422, "validation_error"),
        ({"network": "resnet"}, 422, "validation_error"),
        ({"network": None}, 422, "validation_error"),
        ({"preset": "nonesuch"}, 422, "validation_error"),
        ({"epoch": 3}, 422, "validation_error"),
        ({"class_weights": {"horse": 2}}, 422, "validation_error"),
        ({"batch_size": 10**40}, 422, "validation_error"),
        ({"strategy": "fine_tuning", "unfreeze_from": "fier8"}, 422, "validation_error"),
        ({"image_size": 28}, 422, "validation_error"),
        ({"class_weights": {"cat": 1e39}}, 422, "validation_error"),
        ({"strategy": "from_scratch", "filters_layer": "conv1"}, 422, "validation_error"),
        (
            {"strategy": "from_scratch", "filters_every": 1, "filters_layer": "cnov1"},
            422,
            "validation_error",
        ),
        ({"image_size": [64, 30]}, 422, "validation_error"),
    ],
)
def test_an_impossible_training_is_refused_before_it_is_queued(
    client: httpx.Client,
    fakes: FakeServices,
    pets: str,
    changes: dict[str, Any],
    status: int,
    code: str,
) -> None:
    answer = client.post(URL, json=body(pets) | changes)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert fakes.jobs.worked == []


def test_a_training_beyond_the_memory_is_refused(
    client: httpx.Client, fakes: FakeServices, pets: str
) -> None:
    head = {"pooling": "flatten", "units": [8192, 8192]}
    sent = body(pets, network="vgg16", image_size=1024, head=head)
    answer = client.post(URL, json=sent)
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_error"), answer.text
    assert "GB of memory" in answer.json()["detail"]
    assert fakes.jobs.worked == []


def test_the_wrong_field_is_named(client: httpx.Client, pets: str) -> None:
    errors = client.post(URL, json=body(pets, epochs={"head": -1})).json()["errors"]
    assert [one["loc"] for one in errors] == [["body", "epochs", "head"]]
    unknown = client.post(URL, json=body(pets, class_weights={"horse": 1})).json()
    assert "horse" in unknown["detail"]
    assert "cat, dog" in unknown["detail"]


def test_an_unknown_layer_is_refused_with_the_known_ones(client: httpx.Client, pets: str) -> None:
    sent = body(pets, strategy="fine_tuning", unfreeze_from="fier8")
    detail = client.post(URL, json=sent).json()["detail"]
    assert "unfreeze_from" in detail
    assert "Did you mean fire8" in detail
    assert "fire2, fire3" in detail


def test_an_untrainable_dataset_is_refused(client: httpx.Client, fakes: FakeServices) -> None:
    empty = client.post("/v1/datasets", json={"name": "mine"}).json()["id"]
    answer = client.post(URL, json=body(empty))
    assert (answer.status_code, answer.json()["code"]) == (422, "not_trainable")
    assert fakes.jobs.worked == []


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"", "application/json", 400),
        (b'{"model": NaN}', "application/json", 400),
        (b'{"\\ud800": 1}', "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b"[]", "application/json", 422),
        (b"{}", "text/plain", 415),
        (b" " * 300_000, "application/json", 413),
    ],
)
def test_other_bodies_are_refused(
    client: httpx.Client, content: bytes, kind: str, status: int
) -> None:
    answer = client.post(URL, content=content, headers={"Content-Type": kind})
    assert answer.status_code == status, answer.text


def test_json_of_other_programs_is_read(client: httpx.Client, pets: str) -> None:
    """With a byte order mark, as from PowerShell, or under the type of a format on top of JSON."""
    content = b"\xef\xbb\xbf" + json.dumps(body(pets)).encode()
    answer = client.post(URL, content=content, headers={"Content-Type": "application/vnd.api+json"})
    assert answer.status_code == 202, answer.text


@pytest.mark.parametrize("network", [[], {}, [[]], None, 7, True])
def test_a_network_of_another_kind_is_refused_by_name(
    client: httpx.Client, pets: str, network: object
) -> None:
    answer = client.post(URL, json=body(pets, network=network))
    assert answer.status_code == 422
    assert ["body", "network"] in [error["loc"] for error in answer.json()["errors"]]


def test_presets_are_listed(client: httpx.Client) -> None:
    items = client.get("/v1/presets").json()["items"]
    assert [one["name"] for one in items] == list(PRESETS)
    assert items[0]["request"]["network"] == "cnn_mnist"
    page = client.get("/v1/presets?limit=20&cursor=1").json()
    assert (page["items"], page["next_cursor"]) == (items[1:21], None)
    assert client.get("/v1/presets?limit=2").json()["next_cursor"] == "2"


@pytest.mark.usefixtures("without_weights")
def test_a_training_without_its_published_weights_is_refused(
    settings: Settings,
    fakes: FakeServices,
    tmp_path: Path,
    served: Callable[..., AbstractContextManager[str]],
) -> None:
    bare = settings.model_copy(update={"home": tmp_path / "bare", "offline": True})
    archive = {"archive": ("pets.zip", zipped(tree({"cat": 8, "dog": 6})))}
    with served(bare, fakes) as url:
        made: str = httpx.post(f"{url}/v1/datasets", files=archive).json()["id"]
        answer = httpx.post(url + URL, json=body(made))
        assert answer.status_code == 503, answer.text
        assert answer.json()["code"] == "model_not_ready"
        assert "opsin weights pull" in answer.json()["detail"]
        scratch = body(made, network="cnn_small")
        assert httpx.post(url + URL, json=scratch).status_code == 202
    assert len(fakes.jobs.worked) == 1


def test_only_the_selected_classes_count(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.training.validation.MAX_CLASSES", 2)
    archive = {"archive": ("p.zip", zipped(tree({"cat": 8, "dog": 6, "fox": 6})))}
    made = client.post("/v1/datasets", files=archive).json()["id"]
    assert client.post(URL, json=body(made)).status_code == 422
    assert client.post(URL, json=body(made, classes=["cat", "fox"])).status_code == 202


def publish(fakes: FakeServices, *labels: str) -> int:
    """A trained version of `pets`, which becomes its champion."""
    spec = {"dataset_id": "ds_1", "model": "pets", "network": "cnn_small", "image_size": 20}
    with fakes.store.staging() as folder:
        write_files(folder)
        write_labels(folder, [Label(name, name) for name in labels])
        provenance = DRAFT.provenance.model_copy(update={"spec": spec})
        draft = DRAFT.model_copy(update={"provenance": provenance})
        version = fakes.store.publish("pets", folder, draft)
    fakes.store.promote("pets", version)
    return version


@pytest.mark.parametrize("url", [URL, "/v1/sweeps"])
def test_a_repeated_key_returns_the_first_job_whatever_has_changed_since(
    client: httpx.Client, fakes: FakeServices, pets: str, url: str
) -> None:
    publish(fakes, "cat", "dog")
    training = {"dataset_id": pets, "model": "pets", "from_version": "champion"}
    sent = training if url == URL else {"training": training, "grid": {"seed": [1, 2]}}
    headers = {"Idempotency-Key": "once"}
    first = client.post(url, json=sent, headers=headers)
    assert first.status_code == 202, first.text
    assert publish(fakes, "cat", "dog") == 2
    assert client.post(url, json=sent, headers=headers).json() == first.json()
    assert client.delete(f"/v1/datasets/{pets}").status_code == 204
    assert client.post(url, json=sent, headers=headers).json() == first.json()
    assert len(fakes.jobs.worked) == 1
    changed = training | {"from_version": 1}
    other = changed if url == URL else sent | {"training": changed}
    assert client.post(url, json=other, headers=headers).status_code == 409


def test_a_training_goes_on_from_a_version(
    client: httpx.Client, fakes: FakeServices, pets: str
) -> None:
    publish(fakes, "cat", "cow")
    sent = {"dataset_id": pets, "model": "pets", "from_version": "champion"}
    lacking = client.post(URL, json=sent)
    assert (lacking.status_code, lacking.json()["code"]) == (422, "validation_error")
    assert "no images of cow" in lacking.json()["detail"]
    answer = client.post(URL, json=sent | {"classes": ["cat", "dog"]})
    assert answer.status_code == 202, answer.text
    _, request, _ = fakes.jobs.worked[-1]
    assert request["from_version"] == {"model": "pets", "version": 1}
    assert (request["network"], request["image_size"]) == ("cnn_small", 20)
    other = client.post(URL, json=sent | {"network": "cnn_mnist"})
    assert other.status_code == 422
    assert "cnn_small" in other.json()["detail"]
    assert client.post(URL, json=sent | {"from_version": 7}).json()["code"] == "version_not_found"


@pytest.mark.parametrize("is_sweep", [False, True])
def test_a_training_that_may_promote_beside_versions_of_people_needs_the_scope_faces(
    served: Callable[[Settings, FakeServices], AbstractContextManager[str]],
    fakes: FakeServices,
    pets: str,
    is_sweep: bool,
) -> None:
    table = fakes.with_keys()
    for spec in ({"subjects": ["sub_a"]}, None):  # the champion is an ordinary version
        with fakes.store.staging() as folder:
            write_files(folder)
            draft = DRAFT.model_copy(update={"provenance": Provenance(spec=spec)})
            fakes.store.promote("people", fakes.store.publish("people", folder, draft))
    keys: dict[tuple[Scope, ...], str] = {
        scopes: table.create(NewKey(name="n", scopes=list(scopes)), actor=COMMAND).key or ""
        for scopes in (("train",), ("train", "faces"))
    }
    url = "/v1/sweeps" if is_sweep else URL
    with served(Settings(_env_file=None), fakes) as base, httpx.Client(base_url=base) as client:

        def send(scopes: tuple[Scope, ...], **changes: Any) -> httpx.Response:
            sent = body(pets, **{"model": "people"} | changes)
            sent = {"training": sent, "grid": {"seed": [1, 2]}} if is_sweep else sent
            return client.post(url, json=sent, headers={"X-API-Key": keys[scopes]})

        for promote in ("if_better", "always"):
            refused = send(("train",), promote=promote)
            assert (refused.status_code, "`faces`" in refused.text) == (403, True), refused.text
        assert fakes.jobs.worked == []
        for scopes, changes, needed in (
            (("train",), {"promote": "never"}, ("train",)),
            (("train",), {"model": "others"}, ("train",)),
            (("train", "faces"), {"promote": "if_better"}, ("train", "faces")),
        ):
            answer = send(scopes, **changes)
            assert answer.status_code == 202, answer.text
            assert fakes.jobs.jobs[answer.json()["id"]].scopes == needed

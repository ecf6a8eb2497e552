"""Models that recognize people need the scope `faces` at every endpoint that runs them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import httpx
import pytest

from contracts.keys import NewKey, Scope
from contracts.settings import Settings
from database.audit import COMMAND
from models.faces.provenance import without_subjects
from models.store.snapshot import ServedVersion
from tests.service.conftest import listening
from tests.service.parts import SERVED, FakeServices, gray_png

SUBJECT = "sub_0123456789abcdefghij"
PIXELS = {"instances": [[[[0, 0, 0]] * 224] * 224]}
TENSOR = {
    "inputs": [
        {"name": "image", "shape": [1, 224, 224, 3], "datatype": "UINT8", "data": [0] * 150_528}
    ]
}


def trained_on_a_subject() -> ServedVersion:
    provenance = SERVED.manifest.provenance.model_copy(update={"spec": {"subjects": [SUBJECT]}})
    return replace(SERVED, manifest=SERVED.manifest.model_copy(update={"provenance": provenance}))


def embedder() -> ServedVersion:
    return replace(SERVED, manifest=SERVED.manifest.model_copy(update={"network": "face_embedder"}))


@dataclass(frozen=True)
class Client:
    client: httpx.Client
    keys: dict[str, str]

    def post(self, path: str, scopes: str) -> httpx.Response:
        headers = {"X-API-Key": self.keys[scopes]}
        if path.startswith("/v2"):
            return self.client.post(path, json=TENSOR, headers=headers)
        if path.endswith(":predict"):
            return self.client.post(path, json=PIXELS, headers=headers)
        return self.client.post(path, files={"image": gray_png()}, headers=headers)


@pytest.fixture(scope="module")
def fakes() -> FakeServices:
    return FakeServices()


@pytest.fixture(scope="module")
def keyed(fakes: FakeServices) -> Iterator[Client]:
    table = fakes.with_keys()
    wanted: dict[str, list[Scope]] = {
        "infer": ["infer", "models"],
        "both": ["infer", "models", "faces"],
    }
    keys = {
        name: table.create(NewKey(name=name, scopes=scopes), actor=COMMAND).key or ""
        for name, scopes in wanted.items()
    }
    with (
        listening(Settings(_env_file=None), fakes) as url,
        httpx.Client(base_url=url, timeout=20) as client,
    ):
        yield Client(client, keys)


@pytest.mark.parametrize(
    "version", [trained_on_a_subject(), embedder()], ids=["trained", "embedder"]
)
@pytest.mark.parametrize(
    "path",
    [
        "/v1/classify",
        "/v1/embed",
        "/v1/heatmap",
        "/v1/activations",
        "/v1/models/squeezenet:predict",
        "/v2/models/squeezenet/infer",
    ],
)
def test_the_scope_infer_is_not_enough(
    keyed: Client,
    fakes: FakeServices,
    monkeypatch: pytest.MonkeyPatch,
    version: ServedVersion,
    path: str,
) -> None:
    assert keyed.post(path, "infer").status_code != 403
    monkeypatch.setattr(fakes.workers, "choose", lambda *_: (version, 1))
    refused = keyed.post(path, "infer")
    assert refused.status_code == 403
    assert "`faces`" in refused.text
    assert keyed.post(path, "both").status_code != 403


@pytest.mark.parametrize("path", ["/v1/filters", "/v1/dreams", "download"])
def test_no_pattern_and_no_file_of_a_person_is_given_to_others(
    keyed: Client, fakes: FakeServices, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    def ask(who: str) -> httpx.Response:
        headers = {"X-API-Key": keyed.keys[who]}
        if path == "download":
            where = "/v1/models/squeezenet/versions/1/download?format=labels"
            return keyed.client.get(where, headers=headers)
        if path == "/v1/filters":
            body = {"model": "squeezenet", "layer": "conv9"}
            return keyed.client.post(path, json=body, headers=headers)
        form = {"model": (None, b"squeezenet"), "image": gray_png()}
        return keyed.client.post(path, files=form, headers=headers)

    monkeypatch.setattr(fakes.store, "resolve", lambda *_: 1)
    monkeypatch.setattr(fakes.store, "manifest", lambda *_: trained_on_a_subject().manifest)
    refused = ask("infer")
    assert refused.status_code == 403
    assert "`faces`" in refused.text
    assert ask("both").status_code != 403


def test_a_manifest_without_its_subjects() -> None:
    manifest = trained_on_a_subject().manifest
    assert SUBJECT in manifest.model_dump_json()
    assert SUBJECT not in without_subjects(manifest).model_dump_json()
    assert without_subjects(SERVED.manifest) is SERVED.manifest


def test_a_calibration_needs_the_scope_of_its_dataset(keyed: Client) -> None:
    headers = {"X-API-Key": keyed.keys["both"]}
    answer = keyed.client.post(
        "/v1/faces/calibrations", json={"dataset_id": "ds_people"}, headers=headers
    )
    assert answer.status_code == 403
    assert "`train`" in answer.json()["detail"]

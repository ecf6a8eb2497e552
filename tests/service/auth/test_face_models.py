"""Models that recognize people need the scope `faces` at every endpoint that runs them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import httpx
import pytest

from contracts.errors import ModelNotReady
from contracts.faces.consent import NewConsent, NewPolicy
from contracts.faces.subjects import NewSubject, SubjectChange
from contracts.keys import NewKey, Scope
from contracts.settings import Settings
from database.audit import COMMAND
from database.faces.privacy.erased_ids import add_erased
from models.faces.provenance import without_subjects
from models.store.snapshot import ServedVersion
from tests.models.drafts import DRAFT, write_files
from tests.service.conftest import listening
from tests.service.parts import SERVED, FakeServices, face_services_in, gray_png

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
        httpx.Client(base_url=url, timeout=60) as client,
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


_RUNS = [
    "/v1/classify?model=door",
    "/v1/embed?model=door",
    "/v1/heatmap?model=door",
    "/v1/activations?model=door",
    "/v1/filters",
    "/v1/dreams",
    "/v1/models/door/versions/1/quantize",
    "/v1/models/door/versions/1/evaluations",
    "/v1/models/door:predict",
    "/v2/models/door/infer",
]
CONSENT = NewConsent(version="2026-01", text_digest="sha256:ab")


@dataclass(frozen=True)
class Door:
    """A service with a version that was trained on `subject`, where a consent is required."""

    client: httpx.Client
    fakes: FakeServices
    subject: str

    def consent(self, consent: NewConsent | None) -> None:
        self.fakes.faces.subjects.change(self.subject, SubjectChange(consent=consent))

    def post(self, path: str, **headers: str) -> httpx.Response:
        sent: dict[str, Any] = {"files": {"image": gray_png()}}
        if path.startswith("/v2"):
            sent = {"json": TENSOR}
        elif path.endswith(":predict"):
            sent = {"json": PIXELS}
        elif path.endswith(("quantize", "evaluations")):
            sent = {"json": {"dataset_id": "ds_none"}}
        elif path == "/v1/filters":
            sent = {"json": {"model": "door", "layer": "conv9"}}
        elif path == "/v1/dreams":
            sent = {"files": {"model": (None, b"door"), "image": gray_png()}}
        return self.client.post(path, headers=headers, **sent)


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    fakes = FakeServices(faces=face_services_in(tmp_path, tables=True))
    subject = str(fakes.faces.subjects.create(NewSubject(name="Ada"))["id"])
    fakes.faces.repositories.policy.set(NewPolicy(consent_required=True))
    provenance = SERVED.manifest.provenance.model_copy(update={"spec": {"subjects": [subject]}})
    manifest = SERVED.manifest.model_copy(update={"provenance": provenance, "model": "door"})
    with fakes.store.staging() as folder:
        write_files(folder)
        fakes.store.publish("door", folder, DRAFT.model_copy(update={"provenance": provenance}))
    fakes.store.promote("door", 1, "champion")
    fakes.workers.others = {"door": replace(SERVED, manifest=manifest)}
    with (
        listening(Settings(_env_file=None), fakes) as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        yield Door(client, fakes, subject)


@pytest.mark.parametrize("path", _RUNS)
def test_without_a_consent_in_force_a_version_of_a_person_is_not_used(
    door: Door, path: str
) -> None:
    """Not even by what was trained before: its answers would go on naming the person."""
    door.consent(CONSENT)
    assert door.post(path).status_code != 409
    door.consent(None)
    for headers in ({}, {"Prefer": "respond-async"}):
        refused = door.post(path, **headers)
        assert (refused.status_code, "consent" in refused.text) == (409, True), refused.text
        assert door.subject not in refused.text
    door.fakes.faces.repositories.policy.set(NewPolicy())
    assert door.post(path).status_code != 409


def test_a_version_of_an_erased_person_counts_as_one_without_consent(door: Door) -> None:
    door.consent(CONSENT)
    door.fakes.faces.subjects.erase(door.subject)
    assert door.post("/v1/classify?model=door").status_code == 409


def test_other_models_need_neither_consent_nor_database(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("the database was asked")

    monkeypatch.setattr(type(door.fakes.faces.repositories.policy), "get", fail)
    assert door.post("/v1/classify?model=squeezenet").status_code == 200


def test_of_several_models_only_the_one_without_consent_has_no_answer(door: Door) -> None:
    answer = door.post("/v1/classify?model=squeezenet&model=door")
    assert answer.status_code == 200, answer.text
    first, second = answer.json()["models"]
    assert first["results"]
    assert (second["error"]["code"], second.get("results")) == ("conflict", None)


def test_a_version_that_takes_over_meanwhile_is_checked_too(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(SERVED, manifest=SERVED.manifest.model_copy(update={"model": "door"}))
    chosen = iter([(other, 9), (door.fakes.workers.others["door"], 1)])
    monkeypatch.setattr(door.fakes.workers, "choose", lambda *_: next(chosen))
    door.fakes.dispatcher.answers = [ModelNotReady("It was unloaded.")]
    assert door.post("/v1/classify?model=door").status_code == 409


WHITE = [[[255] * 3] * 227] * 227
_WHITE_TENSOR = {"name": "image", "shape": [1, 227, 227, 3], "datatype": "UINT8", "data": [WHITE]}
SENT: dict[str, dict[str, Any]] = {
    "/v1/classify?model=door": {"files": {"image": gray_png()}},
    "/v1/heatmap?model=door": {"files": {"image": gray_png()}},
    "/v1/models/door:predict": {"json": {"instances": [WHITE]}},
    "/v2/models/door/infer": {"json": {"inputs": [_WHITE_TENSOR]}},
}


@pytest.mark.parametrize("path", SENT)
@pytest.mark.parametrize("people_first", [True, False])
def test_no_version_gets_faces_for_images_or_images_for_faces(
    door: Door, monkeypatch: pytest.MonkeyPatch, path: str, people_first: bool
) -> None:
    door.consent(CONSENT)
    ordinary = replace(SERVED, manifest=SERVED.manifest.model_copy(update={"model": "door"}))
    versions = [(door.fakes.workers.others["door"], 1), (ordinary, 9)]
    first, second = versions if people_first else versions[::-1]
    chosen = chain([first], repeat(second))
    run, is_unloaded = door.fakes.dispatcher.run, iter([True])

    def choose(model: str, version: str | None, operation: str) -> Any:
        return (SERVED, 1) if operation == "faces" else next(chosen)

    async def unloaded_first(queue: Any, pixels: Any, **options: Any) -> Any:
        if path in list(SENT)[:2] and queue.operation != "faces" and next(is_unloaded, False):
            return [ModelNotReady("It was unloaded.") for _ in pixels]
        return await run(queue, pixels, **options)

    monkeypatch.setattr(door.fakes.workers, "choose", choose)
    monkeypatch.setattr(door.fakes.dispatcher, "run", unloaded_first)
    answer = door.client.post(path, **SENT[path])
    assert answer.status_code == 503, answer.text
    assert "unloaded" in answer.text or "Another version" in answer.text


TAKEN_BACK = {"consent": 409, "policy": 409, "version": 404, "subject": 404}


def take_back(door: Door, what: str) -> None:
    match what:
        case "consent":
            door.consent(None)
        case "policy":
            door.fakes.faces.repositories.policy.set(NewPolicy(consent_required=True))
        case "version":
            door.fakes.store.drop_alias("door", "champion")
            door.fakes.store.delete("door", 1)
        case "subject":  # whose versions another process is about to delete
            add_erased(door.fakes.store._root.parent, [door.subject])


def when_computing(
    door: Door, monkeypatch: pytest.MonkeyPatch, operations: tuple[str, ...], what: str
) -> None:
    """Take something back after the network has answered, once."""
    if what == "policy":
        door.fakes.faces.repositories.policy.set(NewPolicy())
    else:
        door.consent(CONSENT)
    run, first = door.fakes.dispatcher.run, iter([True])

    async def then_taken_back(queue: Any, pixels: Any, **options: Any) -> Any:
        replies = await run(queue, pixels, **options)
        if queue.operation in operations and next(first, False):
            take_back(door, what)
        return replies

    monkeypatch.setattr(door.fakes.dispatcher, "run", then_taken_back)


@pytest.mark.parametrize("what", TAKEN_BACK)
@pytest.mark.parametrize(
    "path",
    [
        *SENT,
        "/v1/embed?model=door",
        "/v1/activations?model=door",
        "/v1/classify?model=door&model=squeezenet",
    ],
)
def test_what_is_taken_back_while_a_request_waits_counts(
    door: Door, monkeypatch: pytest.MonkeyPatch, path: str, what: str
) -> None:
    """A slow upload or a full queue may take minutes."""
    when_computing(door, monkeypatch, ("classify", "embed", "explain", "heatmap"), what)
    sent = SENT.get(path, {"files": {"image": gray_png()}})
    answer = door.client.post(path, **sent)
    if "squeezenet" not in path:
        assert answer.status_code == TAKEN_BACK[what], answer.text
        return
    refused, other = answer.json()["models"]
    code = {409: "conflict", 404: "version_not_found"}[TAKEN_BACK[what]]
    assert (refused["error"]["code"], refused.get("results")) == (code, None)
    assert other["results"]


@pytest.mark.parametrize("what", TAKEN_BACK)
@pytest.mark.parametrize("path", ["classify", "embed", "heatmap", "activations"])
def test_no_job_is_made_for_what_was_taken_back_during_the_upload(
    door: Door, monkeypatch: pytest.MonkeyPatch, path: str, what: str
) -> None:
    when_computing(door, monkeypatch, ("faces",), what)
    answer = door.post(f"/v1/{path}?model=door", Prefer="respond-async")
    assert answer.status_code == TAKEN_BACK[what], answer.text
    assert not door.fakes.jobs.jobs

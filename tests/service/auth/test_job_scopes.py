"""A key reads and changes those jobs only that it could have asked for."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, get_args

import httpx
import pytest

from contracts.inference.manifest import Provenance
from contracts.jobs import UNNAMED_KINDS, Artifact, JobKind
from contracts.keys import NewKey, Scope
from contracts.settings import Settings
from database.audit import COMMAND
from models.store.store import Store
from service.auth.job_scopes import scopes_of_request
from service.auth.scopes import scope_of_job
from tests.models.drafts import DRAFT, write_files
from tests.service.parts import FakeServices

StartService = Callable[[Settings, FakeServices], AbstractContextManager[str]]
WAYS = [
    ("GET", ""),
    ("GET", "/events"),
    ("GET", "/artifacts/filters.gif"),
    ("POST", "/cancel"),
    ("DELETE", ""),
]


@pytest.fixture
def fakes() -> FakeServices:
    """The store has `pets`, `door`, which was trained on a subject, and an embedder of faces."""
    fakes = FakeServices()
    subjects = DRAFT.model_copy(update={"provenance": Provenance(spec={"subjects": ["sub_a"]})})
    embedder = DRAFT.model_copy(update={"network": "face_embedder"})
    for name, draft in (("pets", DRAFT), ("door", subjects), ("embedder", embedder)):
        with fakes.store.staging() as folder:
            write_files(folder)
            fakes.store.publish(name, folder, draft)
    return fakes


@pytest.fixture
def store(fakes: FakeServices) -> Store:
    return fakes.store


@pytest.mark.parametrize("kind", get_args(JobKind))
def test_what_a_job_is_about_adds_the_scope_faces(store: Store, kind: JobKind) -> None:
    own = scope_of_job(kind)
    plain = {"calibration": {"faces", "train"}}.get(kind, {own})

    def scopes(request: dict[str, Any]) -> set[Scope]:
        return set(scopes_of_request(kind, request, store))

    assert scopes({}) == plain
    assert scopes({"model": "pets", "version": 1}) == plain
    assert scopes({"model": "new", "subjects": None}) == plain  # a training
    assert scopes({"model": "vgg16"}) == plain  # a dream of a published network
    for request in (
        {"model": "door", "version": 1},
        {"model": "door", "version": "1"},
        {"model": "embedder", "version": 1},
        {"model": "door", "version": None, "against": 1},
        {"model": "face_embedder"},
        {"model": "new", "subjects": ["sub_a"]},
    ):
        assert scopes(request) == plain | {"faces"}, request


@pytest.mark.parametrize(
    "request_", [{"model": "door", "version": 9}, {"model": "gone", "version": 1}]
)
def test_a_version_that_exists_no_longer_may_have_recognized_people(
    store: Store, request_: dict[str, Any]
) -> None:
    assert set(scopes_of_request("embed", request_, store)) == {"infer", "faces"}


# Jobs with their scopes, and jobs of the release before, which stored none.
JOBS: list[tuple[JobKind, tuple[Scope, ...] | None, dict[str, Any], set[Scope]]] = [
    ("embed", ("infer", "faces"), {}, {"infer", "faces"}),
    ("training", ("train", "faces"), {}, {"train", "faces"}),
    ("calibration", ("faces", "train"), {}, {"faces", "train"}),
    ("classify", None, {"model": "door", "version": 1}, {"infer", "faces"}),
    ("evaluation", None, {"model": "pets", "version": 1, "against": 9}, {"train", "faces"}),
    ("training", None, {"model": "new", "subjects": ["sub_a"]}, {"train", "faces"}),
    ("calibration", None, {"dataset_id": "ds_a"}, {"faces", "train"}),
    ("heatmap", None, {"model": "pets", "version": 1}, {"infer"}),
    ("training", None, {"model": "new", "subjects": None}, {"train"}),
]


@pytest.mark.parametrize(("kind", "stored", "request_", "needed"), JOBS)
def test_a_job_takes_all_scopes_of_its_request(
    *,
    served: Callable[..., AbstractContextManager[str]],
    fakes: FakeServices,
    kind: JobKind,
    stored: tuple[Scope, ...] | None,
    request_: dict[str, Any],
    needed: set[Scope],
) -> None:
    table = fakes.with_keys()
    every: tuple[Scope, ...] = ("infer", "train", "faces")
    keys = {
        scopes: table.create(NewKey(name="n", scopes=sorted(scopes)), actor=COMMAND).key or ""
        for scopes in (frozenset(needed), *(frozenset({*every} - {one}) for one in needed))
    }
    fakes.files.store_artifact("job_x", "filters.gif", b"a face")
    artifact = Artifact(name="filters.gif", media_type="image/gif", size=6, url="/1")
    fakes.jobs.put(
        "job_x", kind=kind, state="succeeded", scopes=stored, artifacts=[artifact], result={"a": 1}
    )
    fakes.jobs.requests["job_x"] = request_
    with served(Settings(_env_file=None), fakes) as url, httpx.Client(base_url=url) as client:
        # The key that may do all of it is last, since it deletes the job.
        for scopes, key in sorted(keys.items(), key=lambda one: needed <= one[0]):
            may = needed <= scopes
            headers = {"X-API-Key": key}
            listed = client.get("/v1/jobs", headers=headers).json()["items"]
            assert [job["id"] for job in listed] == ["job_x"] * may
            for method, ending in WAYS:
                answer = client.request(method, f"/v1/jobs/job_x{ending}", headers=headers)
                assert (answer.status_code == 403) is not may, (scopes, method, ending)
                assert may or "a face" not in answer.text
    assert not fakes.jobs.jobs


def test_scopes_are_not_shown(client: httpx.Client, fakes: FakeServices) -> None:
    fakes.jobs.put("job_x", scopes=("infer",))
    assert "scopes" not in client.get("/v1/jobs/job_x").json()


def test_the_kinds_about_people_need_the_scope_faces(store: Store) -> None:
    assert all("faces" in scopes_of_request(kind, {}, store) for kind in UNNAMED_KINDS)

"""Counters of faces and datasets over HTTP: exactly what clients were answered."""

import gc
from collections import Counter
from pathlib import Path

import httpx
import pytest
import structlog
from prometheus_client.parser import text_string_to_metric_families

from contracts.errors import QueueFull
from contracts.metrics.registry import field_of
from contracts.settings import Settings
from models.datasets.archives.limits import Limits
from models.store.snapshot import ServedVersion
from tests.models.datasets.packing import tree, zipped
from tests.service.face_replies import NO_FACE
from tests.service.faces.routes.test_faces import ADA, BEA, add, login
from tests.service.parts import (
    SERVED,
    FakeServices,
    datasets_in,
    face_services_in,
    gray_png,
)
from tests.valkey import RealValkey


@pytest.fixture
def fakes(tmp_path: Path, valkey: RealValkey) -> FakeServices:
    limits = Limits(archive_bytes=300_000, image_bytes=20_000, free_bytes=0)
    return FakeServices(
        faces=face_services_in(tmp_path, redis_url=valkey.url, tables=True),
        datasets=datasets_in(tmp_path, limits),
    )


@pytest.fixture
def settings() -> Settings:
    return Settings(_env_file=None, max_image_bytes=20_000)


def counted(client: httpx.Client, name: str) -> dict[tuple[str, ...], float]:
    """The series of a counter, by the values of their labels in the order of their names."""
    return {
        tuple(value for _, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
        if sample.name == f"opsin_{name}"
    }


def test_logins_and_lockouts_by_decision_and_reason(
    client: httpx.Client, fakes: FakeServices
) -> None:
    ada = add(client, fakes, "Ada", ADA)
    answers = [login(client, ada, level) for level in (ADA, ADA, NO_FACE, *[BEA] * 6, ADA)]
    expected = Counter(
        (body["decision"], body["reason"] or "")
        if (body := answer.json()).get("decision")
        else ("error", body["code"])
        for answer in answers
    )
    assert {decision for decision, _ in expected} == {"match", "no_match", "error"}
    assert counted(client, "face_logins_total") == dict(expected)
    (lockouts,) = counted(client, "face_lockouts_total").values()
    assert lockouts >= 1
    refused = sum(answer.status_code == 429 for answer in answers)
    assert counted(client, "refused_requests_total") == {("locked_out",): refused}


def test_files_of_datasets_by_reason(client: httpx.Client, fakes: FakeServices) -> None:
    files = tree({"cat": 8, "dog": 6}) | {"cat/a.txt": b"no", "cat/b.png": b"no", ".hidden": b""}
    made = client.post("/v1/datasets", files={"archive": ("pets.zip", zipped(files))})
    assert made.status_code == 201, made.text
    refused = Counter(one["code"] for one in made.json()["rejected"])
    counts = fakes.datasets._metrics.read()["c"]
    assert {name: one for name, one in counts.items() if name.startswith("dataset")} == {
        field_of("dataset_files_total", (reason,)): [number]
        for reason, number in {"": 14, **refused}.items()
    }


def test_a_request_for_several_models_counts_for_each(
    client: httpx.Client, fakes: FakeServices
) -> None:
    fakes.workers.others = {
        name: ServedVersion(SERVED.manifest.model_copy(update={"model": name}), SERVED.labels)
        for name in ("vgg16", "efficientnet_lite0")
    }
    fakes.dispatcher.fails_for = {"efficientnet_lite0": QueueFull("Full.", retry_after=1)}
    with structlog.testing.capture_logs() as lines:
        answer = client.post(
            "/v1/classify?model=squeezenet&model=vgg16&model=efficientnet_lite0",
            content=gray_png(),
            headers={"Content-Type": "image/png"},
        )
        assert answer.status_code == 200, answer.text
        images = counted(client, "images_total")
    assert {labels[0]: value for labels, value in images.items()} == {"squeezenet": 1, "vgg16": 1}
    requests = counted(client, "requests_total")
    outcomes = {name: (outcome, code) for name, _, outcome, code, _ in requests}
    assert outcomes == {
        "squeezenet": ("success", ""),
        "vgg16": ("success", ""),
        "efficientnet_lite0": ("rejected", "queue_full"),
    }
    line = next(line for line in lines if line["event"] == "request")
    assert (line["model"], line["operation"]) == ("squeezenet,vgg16,efficientnet_lite0", "classify")


@pytest.mark.parametrize(("path", "status"), [("/v1/classify", 200), ("/v1/classify?top_k=0", 422)])
def test_a_request_leaves_no_scope_to_the_garbage_collector(
    client: httpx.Client, path: str, status: int
) -> None:
    """The route is noted in its state, and a scope in its own state would refer to itself."""
    client.post(path, content=gray_png())
    gc.collect()
    gc.disable()
    try:
        assert client.post(path, content=gray_png()).status_code == status
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        left = [one for one in gc.garbage if isinstance(one, dict) and "routed" in one]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert not left

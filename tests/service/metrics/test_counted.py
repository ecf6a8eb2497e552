"""Counters of faces and datasets over HTTP: exactly what clients were answered."""

from collections import Counter
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from contracts.metrics.registry import field_of
from contracts.settings import Settings
from models.datasets.archives.limits import Limits
from tests.models.datasets.packing import tree, zipped
from tests.service.face_replies import NO_FACE
from tests.service.faces.routes.test_faces import ADA, BEA, add, login
from tests.service.parts import FakeServices, datasets_in, face_services_in
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

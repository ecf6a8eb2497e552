import io
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from database.engine import open_engine
from database.tables import Record
from tests.service.parts import FakeServices, datasets_in

URL = "/v1/faces/calibrations"


@pytest.fixture
def fakes(tmp_path: Path) -> FakeServices:
    engine = open_engine(f"sqlite:///{tmp_path / 'opsin.db'}")
    Record.metadata.create_all(engine)
    engine.dispose()
    return FakeServices(datasets=datasets_in(tmp_path))


@pytest.fixture
def dataset(client: httpx.Client) -> str:
    """Three people with two images each: 12 pairs of different people, too few to train on."""
    dataset_id = str(client.post("/v1/datasets", json={"name": "people"}).json()["id"])
    rng = np.random.default_rng(8)
    for person in ("ada", "bob", "eve"):
        images = []
        for number in range(2):
            file = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (24, 24, 3), np.uint8)).save(file, "PNG")
            images.append(("image", (f"{number}.png", file.getvalue(), "image/png")))
        answer = client.post(
            f"/v1/datasets/{dataset_id}/images", params={"label": person}, files=images
        )
        assert answer.is_success, answer.text
    return dataset_id


def test_a_calibration_is_a_job_and_a_repeated_key_returns_it(
    client: httpx.Client, dataset: str
) -> None:
    body = {"dataset_id": dataset, "target_fmr": 0.3, "groups": {"ada": "one", "bob": "two"}}
    headers = {"Idempotency-Key": "once"}
    first = client.post(URL, json=body, headers=headers)
    assert (first.status_code, first.json()["kind"]) == (202, "calibration")
    assert first.headers["Location"] == f"/v1/jobs/{first.json()['id']}"
    assert client.post(URL, json=body, headers=headers).json()["id"] == first.json()["id"]
    other = client.post(URL, json=body | {"target_fmr": 0.4}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_conflict")


def test_a_calibration_has_as_many_groups_as_it_may(client: httpx.Client) -> None:
    """The limit of the values in a body counts commas, which names have too."""
    for count, status in ((10_000, 404), (10_001, 422), (31_000, 413)):
        groups = {f"Doe, {number}": "40, over" for number in range(count)}
        body = {"dataset_id": "ds_none", "target_fmr": 0.01, "groups": groups}
        answer = client.post(URL, json=body)
        assert answer.status_code == status, answer.text[:300]


@pytest.mark.parametrize(
    ("change", "status", "code", "detail"),
    [
        ({"dataset_id": "ds_none"}, 404, "dataset_not_found", ""),
        ({"target_fmr": 0.2}, 422, "not_trainable", "12 pairs"),
        ({"target_fmr": 0}, 422, "validation_error", ""),
        ({"groups": {"nobody": "one"}}, 422, "validation_error", "'nobody'"),
        ({"groups": {"ada": "over\u202e40"}}, 422, "validation_error", "printable"),
        ({"fmr": 0.1}, 422, "validation_error", ""),
    ],
)
def test_impossible_calibrations_are_refused(
    *,
    client: httpx.Client,
    dataset: str,
    change: dict[str, object],
    status: int,
    code: str,
    detail: str,
) -> None:
    answer = client.post(URL, json={"dataset_id": dataset, "target_fmr": 0.3} | change)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert detail in answer.json()["detail"]


@pytest.mark.parametrize(("people", "target"), [(40, 0.0001), (36, 0.001)])
def test_the_default_rate_is_the_strictest_that_the_pairs_support(
    client: httpx.Client,
    fakes: FakeServices,
    dataset: str,
    monkeypatch: pytest.MonkeyPatch,
    people: int,
    target: float,
) -> None:
    """Of 8 images each, 40 people make 49,920 pairs of different people, and 36 make 40,320."""
    classes = {f"person {number}": 8 for number in range(people)}
    info = fakes.datasets.rows.get(dataset).model_copy(update={"classes": classes})
    monkeypatch.setattr(fakes.datasets.rows, "get", lambda _: info)
    assert client.post(URL, json={"dataset_id": dataset}).status_code == 202
    assert fakes.jobs.worked[-1][1]["target_fmr"] == target

"""What `/v1/sweeps` accepts, refuses and queues, over a socket."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest

from contracts.settings import Settings
from contracts.training.datasets import DatasetInfo
from service.training import submit, sweeps
from tests.models.datasets.packing import tree, zipped
from tests.service.parts import FakeServices
from tests.service.training.test_routes import body, fakes, pets

__all__ = ["fakes", "pets"]
URL = "/v1/sweeps"
GRID = {"learning_rate.head": [0.1, 0.01], "head.dropout": [0, 0.5]}


def test_a_sweep_is_queued_with_all_trainings(
    client: httpx.Client, fakes: FakeServices, pets: str
) -> None:
    sent = {"training": body(pets, batch_size=7), "grid": GRID}
    answer = client.post(URL, json=sent, headers={"Idempotency-Key": "once"})
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert answer.headers["Location"] == f"/v1/jobs/{job['id']}"
    assert (job["kind"], job["state"]) == ("sweep", "queued")
    ((kind, request, _),) = fakes.jobs.worked
    assert (kind, request["dataset_id"], request["combinations"]) == ("sweep", pets, 4)
    tried = [
        (each["request"]["learning_rate"]["head"], each["request"]["head"]["dropout"])
        for each in request["trainings"]
    ]
    assert tried == [(0.1, 0), (0.1, 0.5), (0.01, 0), (0.01, 0.5)]
    assert all(each["request"]["batch_size"] == 7 for each in request["trainings"])
    assert client.post(URL, json=sent, headers={"Idempotency-Key": "once"}).json() == job


def test_presets_count_and_equal_trainings_run_once(
    client: httpx.Client, fakes: FakeServices, pets: str
) -> None:
    training = {"dataset_id": pets, "model": "pets", "preset": "cats_dogs_scratch"}
    grid = {"seed": [8, 9, 10], "batch_size": [16, 16]}
    answer = client.post(URL, json={"training": training, "grid": grid})
    assert answer.status_code == 202, answer.text
    _, request, _ = fakes.jobs.worked[0]
    assert [each["request"]["seed"] for each in request["trainings"]] == [8, 9, 10]
    few = {"training": training, "grid": grid, "max_trainings": 2, "metric": "val_loss"}
    assert client.post(URL, json=few).status_code == 202
    assert len(fakes.jobs.worked[1][1]["trainings"]) <= 2
    assert fakes.jobs.worked[1][1]["metric"] == "loss"


@pytest.mark.parametrize(
    ("changes", "status", "word"),
    [
        ({"grid": {}}, 422, "grid"),
        ({"grid": {"seed": []}}, 422, "seed"),
        ({"grid": {"seed": 1}}, 422, "seed"),
        ({"grid": {"model": ["a", "b"]}}, 422, "model must be the same"),
        ({"grid": {"dataset_id": ["ds_1"]}}, 422, "dataset_id must be the same"),
        ({"grid": {"Learning Rate": [1]}}, 422, "grid"),
        ({"grid": {"learning_rate.head": [0.1, "fast"]}}, 422, '"learning_rate.head": "fast"'),
        ({"grid": {"learning_rat": [0.1]}}, 422, "learning_rat"),
        ({"grid": {"network.name": [1]}}, 422, "network is no object"),
        ({"grid": {f"f{n}": list(range(100)) for n in range(4)}}, 422, "1,000,000"),
        ({"max_trainings": 101}, 422, "100"),
        ({"metric": "speed"}, 422, "metric"),
        ({"trainings": 1}, 422, "trainings"),
    ],
)
def test_an_impossible_sweep_is_refused_before_it_is_queued(
    *,
    client: httpx.Client,
    fakes: FakeServices,
    pets: str,
    changes: dict[str, Any],
    status: int,
    word: str,
) -> None:
    answer = client.post(URL, json={"training": body(pets), "grid": GRID} | changes)
    assert (answer.status_code, answer.json()["code"]) == (status, "validation_error"), answer.text
    assert word in str(answer.json()), answer.text
    assert fakes.jobs.worked == []


def test_each_training_is_checked_as_a_training_of_its_own(
    client: httpx.Client, fakes: FakeServices, pets: str
) -> None:
    def refused(training: dict[str, Any], grid: dict[str, Any] = GRID) -> tuple[int, str]:
        answer = client.post(URL, json={"training": training, "grid": grid})
        return answer.status_code, answer.json()["code"]

    assert refused(body("ds_nonesuch")) == (404, "dataset_not_found")
    assert refused(body(pets) | {"model": "vgg16"}) == (422, "validation_error")
    assert refused(body(pets), {"classes": [["cat", "horse"]]}) == (422, "validation_error")
    huge = {"head": [{"pooling": "flatten", "units": [8192, 8192]}], "image_size": [1024]}
    assert refused(body(pets, network="vgg16"), huge) == (422, "validation_error")
    subjects = {"subjects": ["sub_a", "sub_b"], "model": "door", "network": "face_cnn"}
    assert refused(subjects) == (422, "validation_error")
    assert fakes.jobs.worked == []


def test_trainings_that_repeat_too_much_are_refused(
    client: httpx.Client, fakes: FakeServices, pets: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job's row is read with every list of jobs: 4 kB of gzip could make it 150 MB."""
    sent = {"training": body(pets), "grid": GRID}
    monkeypatch.setattr(sweeps, "_MAX_BYTES", 2000)
    answer = client.post(URL, json=sent)
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_error"), answer.text
    assert "class_weights" in answer.json()["detail"]
    assert fakes.jobs.worked == []


def test_without_room_nothing_is_checked(
    client: httpx.Client, fakes: FakeServices, pets: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes.jobs.is_full = True
    monkeypatch.setattr(sweeps, "_checked", None)
    answer = client.post(URL, json={"training": body(pets), "grid": GRID})
    assert (answer.status_code, answer.json()["code"]) == (429, "queue_full"), answer.text


def test_the_dataset_and_the_disk_are_looked_at_once_for_all_trainings(
    client: httpx.Client, fakes: FakeServices, pets: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = fakes.datasets.rows
    get, read = rows.get, list[str]()

    def counted(dataset_id: str) -> DatasetInfo:
        read.append(dataset_id)
        return get(dataset_id)

    monkeypatch.setattr(rows, "get", counted)
    disk: list[int] = []
    monkeypatch.setattr(sweeps, "require_disk", lambda _, needed: disk.append(needed))
    grid = {"head.dropout": [0.1, 0.2, 0.3], "head.units": [[8], [4096], [16]]}
    answer = client.post(URL, json={"training": body(pets), "grid": grid})
    assert answer.status_code == 202, answer.text
    assert 1 <= len(read) <= 2, "once to check it, and perhaps once to keep it"
    (needed,) = disk
    single: list[int] = []
    monkeypatch.setattr(submit, "require_disk", lambda _, needed: single.append(needed))
    largest = body(pets) | {"head": {"units": [4096]}}
    assert client.post("/v1/trainings", json=largest).status_code == 202
    assert needed == single[0], "the largest of them"


@pytest.mark.usefixtures("without_weights")
def test_a_sweep_without_its_published_weights_is_refused(
    settings: Settings,
    fakes: FakeServices,
    tmp_path: Path,
    served: Callable[..., AbstractContextManager[str]],
) -> None:
    bare = settings.model_copy(update={"home": tmp_path / "bare", "offline": True})
    archive = {"archive": ("pets.zip", zipped(tree({"cat": 8, "dog": 6})))}
    with served(bare, fakes) as url:
        made: str = httpx.post(f"{url}/v1/datasets", files=archive).json()["id"]
        answer = httpx.post(url + URL, json={"training": body(made), "grid": GRID})
    assert (answer.status_code, answer.json()["code"]) == (503, "model_not_ready")
    assert "opsin weights pull" in answer.json()["detail"]
    assert not fakes.jobs.worked

"""From a zip to a served model: HTTP, a job worker, its child processes, an inference worker."""

import csv
import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.conftest import SHARED
from tests.flow.conftest import Networks
from tests.flow.installation import READY_SECONDS, Installation
from tests.flow.trainings import (
    color_archive,
    color_image,
    fetch_job,
    start_process,
    submit_training,
    training_installation,
    upload_dataset,
    wait_for_job,
)

pytestmark = pytest.mark.shared


@pytest.fixture(scope="module")
def learning(
    shared: Path, fetched: Path, networks: Networks, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    """An installation of SqueezeNet with all processes."""
    env = {"OPSIN_WEIGHTS_DIR": str(SHARED / "weights"), "OPSIN_DATASET_JOB_BYTES": "100000"}
    home = tmp_path_factory.mktemp("learning") / "home"
    running = training_installation(home, fetched / "weights", networks("squeezenet"), env)
    try:
        for name in ("api", "jobs"):
            start_process(running, name)
        running.run("worker", "worker")
        running.wait_until_ready()
        yield running
    finally:
        running.close()


@pytest.fixture
def client(learning: Installation) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=learning.url, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def dataset(learning: Installation) -> str:
    """A dataset imported by a job, since it is large by the settings of this installation."""
    with httpx.Client(base_url=learning.url, timeout=60) as client:
        answer = upload_dataset(client, color_archive())
        assert answer.status_code == 202, answer.text
        done = wait_for_job(client, answer.json()["id"])
        assert done["state"] == "succeeded", done
        dataset_id: str = done["result"]["id"]
        assert client.get(f"/v1/datasets/{dataset_id}").json() == done["result"]
        assert done["result"]["splits"] == {"train": 42, "validation": 9, "test": 9}
        return dataset_id


def test_from_a_zip_to_a_served_version_and_back(client: httpx.Client, dataset: str) -> None:
    first = submit_training(
        client, dataset, epochs={"scratch": 6}, learning_rate={"scratch": 0.003}
    )
    second = submit_training(
        client,
        dataset,
        network="squeezenet",
        image_size=64,
        epochs={"head": 3},
        promote="always",
    )
    assert second["queue_position"] in {1, 2}
    refused = client.delete(f"/v1/datasets/{dataset}")
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
    with client.stream("GET", f"/v1/jobs/{first['id']}/events") as events:
        stream = events.read().decode()
    assert stream.count("event: metrics") >= 1
    assert "succeeded" in stream
    done = wait_for_job(client, first["id"])
    result = done["result"]
    assert (result["version"], result["promoted"]) == (1, True), result["promotion"]
    assert result["metrics"]["test"]["accuracy"] == 1.0
    for artifact in done["artifacts"]:
        content = client.get(artifact["url"]).content
        assert len(content) == artifact["size"]
        if artifact["media_type"] == "image/png":
            Image.open(io.BytesIO(content)).load()
    assert {"curves.png", "confusion_matrix.png"} <= {
        artifact["name"] for artifact in done["artifacts"]
    }

    other = wait_for_job(client, second["id"])["result"]
    assert other["version"] == 2
    _check_evaluation(client, dataset, result, other)
    for version in (2, 1):
        moved = client.post(
            "/v1/models/colors/aliases", json={"alias": "champion", "version": version}
        )
        assert moved.status_code == 200, moved.text
        answer = client.post(
            "/v1/classify?model=colors",
            content=color_image("green", 99),
            headers={"Content-Type": "image/png"},
        ).json()
        assert answer["version"] == version
        assert answer["results"][0]["predictions"][0]["label"] == "green", answer


def _check_evaluation(
    client: httpx.Client, dataset: str, first: dict[str, Any], second: dict[str, Any]
) -> None:
    """Measured again on the same test images, versions have the figures of their trainings."""
    body = {"dataset_id": dataset, "against": 2}
    answer = client.post("/v1/models/colors/versions/1/evaluations", json=body)
    assert answer.status_code == 202, answer.text
    done = wait_for_job(client, answer.json()["id"])
    assert done["state"] == "succeeded", done
    result, compared = done["result"], done["result"]["comparison"]
    assert (result["split"], result["pictures"], result["seen_in_training"]) == ("test", 9, 0)
    assert result["metrics"] == first["metrics"]["test"]
    assert result["confusion_matrix"] == first["confusion_matrix"]
    assert 0 < result["accuracy_interval"]["low"] < result["accuracy_interval"]["high"] == 1
    assert compared["accuracy"] == result["accuracy"]
    assert compared["against_accuracy"] == second["metrics"]["test"]["accuracy"]
    assert compared["p_value"] == 1 or compared["only_version_right"] > 0
    artifacts = {each["name"]: client.get(each["url"]).content for each in done["artifacts"]}
    rows = list(csv.DictReader(io.StringIO(artifacts["predictions.csv"].decode())))
    assert [row["predicted"] for row in rows] == [row["label"] for row in rows]
    assert len(rows) == 9


def test_a_cancelled_training_stops_at_once_and_leaves_no_version(
    learning: Installation, client: httpx.Client, dataset: str
) -> None:
    submitted = submit_training(client, dataset, model="unfinished", epochs={"scratch": 1000},
                 early_stopping_patience=None)  # fmt: skip
    until = time.monotonic() + READY_SECONDS
    while not (running := fetch_job(client, submitted["id"]))["metrics"]:
        assert time.monotonic() < until, running
        time.sleep(0.1)
    client.post(f"/v1/jobs/{submitted['id']}/cancel")
    cancelled_at = time.monotonic()
    done = wait_for_job(client, submitted["id"])
    assert time.monotonic() - cancelled_at < 30
    assert done["state"] == "cancelled"
    assert done["metrics"]
    assert client.get("/v1/models/unfinished").json()["code"] == "model_not_found"
    log = learning.home / "tensorboard" / submitted["id"]
    assert log.is_dir()
    assert client.delete(f"/v1/jobs/{submitted['id']}").status_code == 204
    assert not log.exists()


def test_a_repeated_idempotency_key_makes_one_training(client: httpx.Client, dataset: str) -> None:
    body = {"dataset_id": dataset, "model": "once", "network": "cnn_small", "image_size": 28}
    key = {"Idempotency-Key": "one"}
    first, second = (
        client.post("/v1/trainings", json=body, headers=key).json()["id"] for _ in range(2)
    )
    assert first == second
    other = client.post("/v1/trainings", json=body | {"seed": 9}, headers=key)
    assert other.json()["code"] == "idempotency_conflict"
    assert client.post(f"/v1/jobs/{first}/cancel").status_code == 200

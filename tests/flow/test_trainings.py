"""From a zip to a served model, for real: HTTP, a job worker, its children, an inference worker."""

import io
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from tests.conftest import SHARED
from tests.flow.learning import (
    begin,
    colors,
    ended,
    installation,
    job,
    picture,
    train,
    uploaded,
)
from tests.flow.running import READY_SECONDS, Running

pytestmark = pytest.mark.shared


@pytest.fixture(scope="module")
def learning(
    shared: Path, fetched: Path, imported: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """An installation of SqueezeNet with all of its processes."""
    env = {"OPSIN_WEIGHTS_DIR": str(SHARED / "weights"), "OPSIN_DATASET_JOB_BYTES": "100000"}
    home = tmp_path_factory.mktemp("learning") / "home"
    running = installation(home, fetched / "weights", imported, env)
    try:
        for name in ("api", "jobs"):
            begin(running, name)
        running.run("worker", "worker")
        running.await_ready()
        yield running
    finally:
        running.close()


@pytest.fixture
def client(learning: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=learning.url, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def dataset(learning: Running) -> str:
    """Taken in by a job, since it is large for this installation."""
    with httpx.Client(base_url=learning.url, timeout=60) as client:
        answer = uploaded(client, colors())
        assert answer.status_code == 202, answer.text
        done = ended(client, answer.json()["id"])
        assert done["state"] == "succeeded", done
        made: str = done["result"]["id"]
        assert client.get(f"/v1/datasets/{made}").json() == done["result"]
        assert done["result"]["splits"] == {"train": 42, "validation": 9, "test": 9}
        return made


def test_from_a_zip_to_a_served_version_and_back(client: httpx.Client, dataset: str) -> None:
    first = train(client, dataset, epochs={"scratch": 6}, learning_rate={"scratch": 0.003})
    second = train(
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
        told = events.read().decode()
    assert told.count("event: metrics") >= 1
    assert "succeeded" in told
    done = ended(client, first["id"])
    result = done["result"]
    assert (result["version"], result["promoted"]) == (1, True), result["promotion"]
    assert result["metrics"]["test"]["accuracy"] == 1.0
    for artifact in done["artifacts"]:
        content = client.get(artifact["url"]).content
        assert len(content) == artifact["size"]
        if artifact["media_type"] == "image/png":
            Image.open(io.BytesIO(content)).load()
    assert {"curves.png", "confusion_matrix.png"} <= {one["name"] for one in done["artifacts"]}

    assert ended(client, second["id"])["result"]["version"] == 2
    for version in (2, 1):
        moved = client.post(
            "/v1/models/colors/aliases", json={"alias": "champion", "version": version}
        )
        assert moved.status_code == 200, moved.text
        answer = client.post(
            "/v1/classify?model=colors",
            content=picture("green", 99),
            headers={"Content-Type": "image/png"},
        ).json()
        assert answer["version"] == version
        assert answer["results"][0]["predictions"][0]["label"] == "green", answer


def test_a_cancelled_training_stops_at_once_and_leaves_no_version(
    learning: Running, client: httpx.Client, dataset: str
) -> None:
    made = train(client, dataset, model="unfinished", epochs={"scratch": 1000},
                 early_stopping_patience=None)  # fmt: skip
    until = time.monotonic() + READY_SECONDS
    while not (running := job(client, made["id"]))["metrics"]:
        assert time.monotonic() < until, running
        time.sleep(0.1)
    client.post(f"/v1/jobs/{made['id']}/cancel")
    asked = time.monotonic()
    done = ended(client, made["id"])
    assert time.monotonic() - asked < 5
    assert done["state"] == "cancelled"
    assert done["metrics"]
    assert client.get("/v1/models/unfinished").json()["code"] == "model_not_found"
    log = learning.home / "tensorboard" / made["id"]
    assert log.is_dir()
    assert client.delete(f"/v1/jobs/{made['id']}").status_code == 204
    assert not log.exists()


def test_a_key_makes_one_training(client: httpx.Client, dataset: str) -> None:
    body = {"dataset_id": dataset, "model": "once", "network": "cnn_small", "image_size": 28}
    key = {"Idempotency-Key": "one"}
    first, second = (
        client.post("/v1/trainings", json=body, headers=key).json()["id"] for _ in range(2)
    )
    assert first == second
    other = client.post("/v1/trainings", json=body | {"seed": 9}, headers=key)
    assert other.json()["code"] == "idempotency_conflict"
    assert client.post(f"/v1/jobs/{first}/cancel").status_code == 200

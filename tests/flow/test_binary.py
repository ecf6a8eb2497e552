"""A model of two classes with one sigmoid output: trained, served and explained over HTTP."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.flow.installation import READY_SECONDS, Installation
from tests.flow.trainings import (
    color_image,
    start_process,
    submit_training,
    training_installation,
    upload_dataset,
    wait_for_job,
)
from tests.models.datasets.packing import zipped

pytestmark = pytest.mark.slow  # minutes of waiting; `make test-all` runs it

SIGMOID = {"units": [8], "dropout": 0, "output": "sigmoid"}


@pytest.fixture(scope="module")
def learning(fetched: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """An installation with all processes and no published network."""
    home = tmp_path_factory.mktemp("binary") / "home"
    env = {"OPSIN_PRECISION": "float32", "OPSIN_PRELOAD_EXPLANATIONS": "off"}
    running = training_installation(home, fetched / "weights", None, env)
    try:
        for name in ("api", "jobs"):
            start_process(running, name)
        running.run("worker", "worker")
        yield running
    finally:
        running.close()


@pytest.fixture(scope="module")
def client(learning: Installation) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=learning.url, timeout=320) as client:
        yield client


@pytest.fixture(scope="module")
def trained(learning: Installation, client: httpx.Client) -> dict[str, Any]:
    """A finished training on blue and red images, once its version is served."""
    files = {f"{c}/{n}.png": color_image(c, n) for c in ("blue", "red") for n in range(16)}
    dataset = upload_dataset(client, zipped(files)).json()["id"]
    more = {"head": SIGMOID, "epochs": {"scratch": 8}, "learning_rate": {"scratch": 0.003}}
    done = wait_for_job(
        client, submit_training(client, dataset, **more)["id"], seconds=READY_SECONDS
    )
    assert done["state"] == "succeeded", done

    def is_served() -> bool:
        items = learning.get("/v1/models").json()["items"]
        return any(m["name"] == "colors" and m["state"] == "ready" for m in items)

    learning.wait_until(is_served, READY_SECONDS)
    return done


def request_json(client: httpx.Client, path: str, data: bytes, **params: Any) -> dict[str, Any]:
    headers = {"Content-Type": "image/png", "Accept": "application/json", "X-Timeout-Ms": "300000"}
    answer = client.post(path, params={"model": "colors"} | params, content=data, headers=headers)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def test_the_model_has_two_classes_everywhere(
    trained: dict[str, Any], client: httpx.Client
) -> None:
    assert trained["result"]["metrics"]["test"]["accuracy"] == 1.0
    manifest = client.get("/v1/models/colors/versions/1").json()
    assert manifest["classes"] == 2
    labels = client.get("/v1/models/colors/versions/1/download?format=labels").text
    assert ("blue" in labels, "red" in labels) == (True, True)
    for color in ("blue", "red"):
        body = request_json(client, "/v1/classify", color_image(color, 99), top_k=5)
        first, second = body["results"][0]["predictions"]
        assert (first["label"], second["label"]) == (color, {"blue": "red", "red": "blue"}[color])
        assert first["probability"] + second["probability"] == pytest.approx(1, abs=1e-5)


@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize(
    "method",
    [
        "grad_cam",
        *(pytest.param(m, marks=pytest.mark.slow) for m in ("hires_cam", "layer_cam", "occlusion")),
    ],
)
def test_both_classes_are_explained(method: str, client: httpx.Client) -> None:
    red = color_image("red", 99)
    (best, _) = request_json(client, "/v1/classify", red)["results"][0]["predictions"]
    maps = request_json(client, "/v1/heatmap", red, method=method, class_index=[0, 1])["maps"]
    targets = [item["target"] for item in maps]
    assert [(target["index"], target["label"]) for target in targets] == [(0, "blue"), (1, "red")]
    assert {target["space"] for target in targets} == {"logit"}
    assert targets[1]["probability"] == pytest.approx(best["probability"], abs=1e-4)
    assert targets[0]["probability"] == pytest.approx(1 - best["probability"], abs=1e-4)
    grids = [np.array(item["grid"]["values"]) for item in maps]
    assert all(np.isfinite(grid).all() for grid in grids)
    assert [item["empty"] for item in maps] == [not grid.any() for grid in grids]
    assert any(grid.any() for grid in grids)
    # One logit speaks for one class as much as against the other: no position speaks for both.
    if method in {"grad_cam", "hires_cam"}:
        assert not ((grids[0] > 0) & (grids[1] > 0)).any()
    alone = request_json(client, "/v1/heatmap", red, method=method)
    assert alone["target"]["label"] == "red"


@pytest.mark.usefixtures("trained")
def test_a_third_class_is_refused(client: httpx.Client) -> None:
    answer = client.post(
        "/v1/heatmap",
        params={"model": "colors", "class_index": 2},
        content=color_image("red", 1),
        headers={"Content-Type": "image/png"},
    )
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_error")
    assert "2 classes, 0 to 1" in answer.json()["detail"]


def test_one_sigmoid_is_refused_for_three_classes(client: httpx.Client) -> None:
    files = {f"{c}/{n}.png": color_image(c, n) for c in ("blue", "green", "red") for n in range(6)}
    dataset = upload_dataset(client, zipped(files)).json()["id"]
    body = {"dataset_id": dataset, "model": "three", "network": "cnn_small", "image_size": 28}
    answer = client.post("/v1/trainings", json=body | {"head": SIGMOID})
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_error")
    assert "distinguishes 2 classes, not 3" in answer.json()["detail"]

"""Two classes told apart by one sigmoid: trained, served, and explained for either, over HTTP."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.flow.learning import begin, ended, installation, picture, train, uploaded
from tests.flow.running import READY_SECONDS, Running
from tests.models.datasets.packing import zipped

pytestmark = pytest.mark.slow  # minutes of waiting; `make test-all` runs it

SIGMOID = {"units": [8], "dropout": 0, "output": "sigmoid"}


@pytest.fixture(scope="module")
def learning(fetched: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """All processes of an installation that has no network of the zoo."""
    home = tmp_path_factory.mktemp("binary") / "home"
    env = {"OPSIN_PRECISION": "float32", "OPSIN_PRELOAD_EXPLANATIONS": "off"}
    running = installation(home, fetched / "weights", None, env)
    try:
        for name in ("api", "jobs"):
            begin(running, name)
        running.run("worker", "worker")
        yield running
    finally:
        running.close()


@pytest.fixture(scope="module")
def client(learning: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=learning.url, timeout=320) as client:
        yield client


@pytest.fixture(scope="module")
def trained(learning: Running, client: httpx.Client) -> dict[str, Any]:
    """A finished training of blue and red pictures, once its version is served."""
    files = {f"{c}/{n}.png": picture(c, n) for c in ("blue", "red") for n in range(16)}
    dataset = uploaded(client, zipped(files)).json()["id"]
    more = {"head": SIGMOID, "epochs": {"scratch": 8}, "learning_rate": {"scratch": 0.003}}
    done = ended(client, train(client, dataset, **more)["id"], seconds=READY_SECONDS)
    assert done["state"] == "succeeded", done

    def is_served() -> bool:
        items = learning.get("/v1/models").json()["items"]
        return any(one["name"] == "colors" and one["state"] == "ready" for one in items)

    learning.await_that(is_served, READY_SECONDS)
    return done


def asked(client: httpx.Client, path: str, data: bytes, **params: Any) -> dict[str, Any]:
    headers = {"Content-Type": "image/png", "Accept": "application/json", "X-Timeout-Ms": "300000"}
    answer = client.post(path, params={"model": "colors"} | params, content=data, headers=headers)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def test_it_has_two_classes_everywhere(trained: dict[str, Any], client: httpx.Client) -> None:
    assert trained["result"]["metrics"]["test"]["accuracy"] == 1.0
    manifest = client.get("/v1/models/colors/versions/1").json()
    assert manifest["classes"] == 2
    labels = client.get("/v1/models/colors/versions/1/download?format=labels").text
    assert ("blue" in labels, "red" in labels) == (True, True)
    for color in ("blue", "red"):
        told = asked(client, "/v1/classify", picture(color, 99), top_k=5)
        first, second = told["results"][0]["predictions"]
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
def test_either_class_is_explained(method: str, client: httpx.Client) -> None:
    red = picture("red", 99)
    (best, _) = asked(client, "/v1/classify", red)["results"][0]["predictions"]
    told = asked(client, "/v1/heatmap", red, method=method, class_index=[0, 1])["maps"]
    targets = [one["target"] for one in told]
    assert [(one["index"], one["label"]) for one in targets] == [(0, "blue"), (1, "red")]
    assert {one["space"] for one in targets} == {"logit"}
    assert targets[1]["probability"] == pytest.approx(best["probability"], abs=1e-4)
    assert targets[0]["probability"] == pytest.approx(1 - best["probability"], abs=1e-4)
    grids = [np.array(one["grid"]["values"]) for one in told]
    assert all(np.isfinite(grid).all() for grid in grids)
    assert [one["empty"] for one in told] == [not grid.any() for grid in grids]
    assert any(grid.any() for grid in grids)
    # One logit speaks for a class as much as against the other: no place speaks for both.
    if method in {"grad_cam", "hires_cam"}:
        assert not ((grids[0] > 0) & (grids[1] > 0)).any()
    alone = asked(client, "/v1/heatmap", red, method=method)
    assert alone["target"]["label"] == "red"


@pytest.mark.usefixtures("trained")
def test_there_is_no_third_class(client: httpx.Client) -> None:
    answer = client.post(
        "/v1/heatmap",
        params={"model": "colors", "class_index": 2},
        content=picture("red", 1),
        headers={"Content-Type": "image/png"},
    )
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_error")
    assert "2 classes, 0 to 1" in answer.json()["detail"]


def test_one_sigmoid_is_refused_for_three_classes(client: httpx.Client) -> None:
    files = {f"{c}/{n}.png": picture(c, n) for c in ("blue", "green", "red") for n in range(6)}
    dataset = uploaded(client, zipped(files)).json()["id"]
    body = {"dataset_id": dataset, "model": "three", "network": "cnn_small", "image_size": 28}
    answer = client.post("/v1/trainings", json=body | {"head": SIGMOID})
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_error")
    assert "2 classes apart, not 3" in answer.json()["detail"]

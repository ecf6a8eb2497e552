"""Promoting, rolling back and deleting under load; the long run is benchmarks.serving.hot_swap."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.serving.hot_swap import HotSwap
from contracts.inference.manifest import Draft
from models.store.store import Store
from tests.conftest import SHARED
from tests.flow.installation import Installation
from tests.images import encoded, scene
from tests.models import keras_warnings

pytestmark = [keras_warnings.ignored, pytest.mark.shared, pytest.mark.slow]

MODEL = "squeezenet"


@pytest.fixture(scope="module")
def swapping(
    shared: Path, fetched: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    """An installation of SqueezeNet whose versions these tests promote and damage."""
    home = tmp_path_factory.mktemp("swapping") / "home"
    env = {
        "OPSIN_MODELS": MODEL,
        "OPSIN_WEIGHTS_DIR": str(SHARED / "weights"),
        # Versions differ by less than bfloat16 rounds away.
        "OPSIN_PRECISION": "float32",
    }
    installation = Installation(home, fetched / "weights", env, supervised=True)
    try:
        installation.start()
        yield installation
    finally:
        installation.close()


@pytest.fixture
def store(swapping: Installation) -> Store:
    return Store(swapping.home / "store")


def classify(running: Installation, **params: Any) -> httpx.Response:
    return httpx.post(
        running.url + "/v1/classify",
        params=params,
        content=encoded(scene(), "PNG"),
        headers={"Content-Type": "image/png"},
        timeout=30,
    )


@pytest.mark.slow
def test_swaps_under_load(swapping: Installation, store: Store, fetched: Path) -> None:
    swap = HotSwap(swapping.url, store, MODEL, {})
    outcome = swap.run(fetched / "samples", rounds=3, clients=4, dwell=1.0)
    assert outcome.faults == []
    assert len(outcome.answers) == 4, "each version answered"
    assert store.versions(MODEL) == [1]


def test_a_damaged_champion_is_quarantined_and_the_previous_version_answers(
    swapping: Installation, store: Store
) -> None:
    with store.staging() as folder:
        origin = store.path(MODEL, 1)
        for name in ("saved_model", "model.keras", "labels.json"):
            copy: Any = shutil.copytree if name == "saved_model" else shutil.copy
            copy(origin / name, folder / name)
        draft = Draft.model_validate(store.manifest(MODEL, 1).model_dump())
        number = store.publish(MODEL, folder, draft)
    graph = store.path(MODEL, number) / "saved_model/saved_model.pb"
    graph.write_bytes(graph.read_bytes()[:-1] + b"?")
    answer = httpx.post(
        f"{swapping.url}/v1/models/{MODEL}/aliases",
        json={"alias": "champion", "version": number},
        timeout=40,
    )
    assert answer.status_code == 202
    assert "quarantine" in answer.json()["reason"]
    body = classify(swapping).json()
    assert body["version"] == 1, "the version that was served before still answers"
    assert classify(swapping, version=number).json()["code"] == "version_not_found"
    assert "quarantine" in swapping.log("worker")
    back = httpx.post(
        f"{swapping.url}/v1/models/{MODEL}/aliases",
        json={"alias": "champion", "version": 1},
        timeout=40,
    )
    assert (back.status_code, back.json()["reason"]) == (200, None)


@pytest.mark.slow
def test_a_conversion_continues_after_the_deadline(swapping: Installation) -> None:
    url = f"{swapping.url}/v1/models/{MODEL}/versions/1/download?format=tflite"
    first = httpx.get(url, headers={"X-Timeout-Ms": "500"}, timeout=10)
    assert (first.status_code, first.json()["code"]) == (503, "model_not_ready")
    assert int(first.headers["Retry-After"]) >= 1
    until = time.monotonic() + 90
    while (answer := httpx.get(url, timeout=40)).status_code != 200:
        assert time.monotonic() < until, answer.text
        time.sleep(0.5)
    assert answer.content[4:8] == b"TFL3"

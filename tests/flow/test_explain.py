"""Explanations over HTTP, with a real worker and SqueezeNet's published weights."""

import io
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.flow.installation import Installation

JSON = {"Accept": "application/json"}


@pytest.fixture
def cat(running: Installation, photos: Path) -> bytes:
    items = running.get("/v1/models").json()["items"]
    if "heatmap" not in next(m["operations"] for m in items if m["name"] == "squeezenet"):
        pytest.skip("SqueezeNet's weights are missing")
    return (photos / "cat.png").read_bytes()


def ask(client: httpx.Client, data: bytes, path: str = "/v1/heatmap", **params: Any) -> Any:
    headers = {"Content-Type": "image/png", "X-Timeout-Ms": "200000"} | JSON
    given = {"model": "squeezenet"} | params
    answer = client.post(path, params=given, content=data, headers=headers, timeout=220)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_heatmap_explains_the_best_class_by_default(client: httpx.Client, cat: bytes) -> None:
    body = ask(client, cat)
    best = ask(client, cat, "/v1/classify", top_k=1)["results"][0]["predictions"][0]
    assert body["target"]["index"] == best["index"]
    assert body["target"]["probability"] == pytest.approx(best["probability"], abs=1e-4)
    values = np.array(body["grid"]["values"])
    assert values.shape == (13, 13)
    assert (values.min() >= 0, values.max()) == (True, 1)
    assert not body["empty"]


def test_several_classes_give_the_same_maps_as_one_at_a_time(
    client: httpx.Client, cat: bytes
) -> None:
    together = ask(client, cat, class_index=[281, 340, 999])["maps"]
    assert [item["target"]["index"] for item in together] == [281, 340, 999]
    # A file with other bytes, so that the answers are computed and do not come from the cache.
    image = Image.open(io.BytesIO(cat)).convert("RGB")
    file = io.BytesIO()
    image.save(file, "PNG", optimize=False)
    for item in together:
        index = item["target"]["index"]
        alone = ask(client, file.getvalue(), class_index=index, method="grad_cam")
        np.testing.assert_allclose(alone["grid"]["values"], item["grid"]["values"], atol=2e-4)


def test_an_overlay_has_the_size_and_orientation_of_the_image(
    client: httpx.Client, cat: bytes
) -> None:
    upright = Image.open(io.BytesIO(cat)).convert("RGB")
    exif = Image.Exif()
    exif[274] = 6
    stored = io.BytesIO()
    upright.transpose(Image.Transpose.ROTATE_90).save(stored, "JPEG", quality=98, exif=exif)
    params = {"model": "squeezenet", "class_index": 281, "alpha": 0.6}
    plain, turned = (
        client.post("/v1/heatmap", params=params, content=data, headers={"Content-Type": kind})
        for data, kind in ((cat, "image/png"), (stored.getvalue(), "image/jpeg"))
    )
    expected, overlay = (
        np.asarray(Image.open(io.BytesIO(answer.raise_for_status().content)), float)
        for answer in (plain, turned)
    )
    assert expected.shape == overlay.shape == (upright.height, upright.width, 3)
    assert np.abs(expected - overlay).mean() < 8
    assert np.abs(expected - overlay[:, ::-1]).mean() > 16


def test_other_methods_and_layers_come_from_the_keras_model(
    client: httpx.Client, cat: bytes
) -> None:
    layers = client.get("/v1/models/squeezenet/layers").json()["items"]
    explainable = [layer["name"] for layer in layers if layer["explainable"]]
    assert "fire9_concat" in explainable
    body = ask(client, cat, method="layer_cam", class_index=281)
    assert body["grid"]["shape"] == [13, 13]
    earlier = ask(client, cat, layer="fire5_concat", class_index=281)
    assert earlier["grid"]["shape"] == [27, 27]
    maps = ask(client, cat, "/v1/activations", channels=4, layer="fire5_concat")
    means = [item["mean"] for item in maps["maps"]]
    assert means == sorted(means, reverse=True)
    unknown = client.post(
        "/v1/heatmap",
        params={"model": "squeezenet", "layer": "fire99"},
        content=cat,
        headers={"Content-Type": "image/png"},
    )
    assert (unknown.status_code, unknown.json()["code"]) == (404, "layer_not_found")
    assert "GET /v1/models/{model}/layers" in unknown.json()["detail"]


def test_metrics_are_between_0_and_1(client: httpx.Client, cat: bytes) -> None:
    body = ask(client, cat, method="grad_cam", metrics=True, class_index=281)
    assert 0 <= body["metrics"]["deletion_auc"] <= 1
    assert body["metrics"]["insertion_auc"] >= body["metrics"]["deletion_auc"]

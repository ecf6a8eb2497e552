"""A picture in, the reasons out: over HTTP, through a real worker and SqueezeNet's real weights."""

import io
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.flow.running import Running

JSON = {"Accept": "application/json"}


@pytest.fixture
def cat(running: Running, photos: Path) -> bytes:
    items = running.get("/v1/models").json()["items"]
    if "heatmap" not in next(m["operations"] for m in items if m["name"] == "squeezenet"):
        pytest.skip("SqueezeNet's weights are not here")
    return (photos / "cat.png").read_bytes()


def ask(client: httpx.Client, data: bytes, path: str = "/v1/heatmap", **params: Any) -> Any:
    headers = {"Content-Type": "image/png", "X-Timeout-Ms": "200000"} | JSON
    given = {"model": "squeezenet"} | params
    answer = client.post(path, params=given, content=data, headers=headers, timeout=220)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_heatmap_is_of_the_class_that_classification_tells(
    client: httpx.Client, cat: bytes
) -> None:
    told = ask(client, cat)
    best = ask(client, cat, "/v1/classify", top_k=1)["results"][0]["predictions"][0]
    assert told["target"]["index"] == best["index"]
    assert told["target"]["probability"] == pytest.approx(best["probability"], abs=1e-4)
    values = np.array(told["grid"]["values"])
    assert values.shape == (13, 13)
    assert (values.min() >= 0, values.max()) == (True, 1)
    assert not told["empty"]


def test_mixed_classes_together_are_as_each_alone(client: httpx.Client, cat: bytes) -> None:
    together = ask(client, cat, class_index=[281, 340, 999])["maps"]
    assert [one["target"]["index"] for one in together] == [281, 340, 999]
    # Another picture by a hair, so that the answers are computed and not remembered.
    image = Image.open(io.BytesIO(cat)).convert("RGB")
    file = io.BytesIO()
    image.save(file, "PNG", optimize=False)
    for one in together:
        alone = ask(client, file.getvalue(), class_index=one["target"]["index"], method="grad_cam")
        np.testing.assert_allclose(alone["grid"]["values"], one["grid"]["values"], atol=2e-4)


def test_the_overlay_has_the_size_and_orientation_of_the_picture(
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
    one, other = (
        np.asarray(Image.open(io.BytesIO(answer.raise_for_status().content)), float)
        for answer in (plain, turned)
    )
    assert one.shape == other.shape == (upright.height, upright.width, 3)
    assert np.abs(one - other).mean() < 8
    assert np.abs(one - other[:, ::-1]).mean() > 16


def test_other_methods_and_layers_come_from_the_keras_model(
    client: httpx.Client, cat: bytes
) -> None:
    layers = client.get("/v1/models/squeezenet/layers").json()["items"]
    explainable = [layer["name"] for layer in layers if layer["explainable"]]
    assert "fire9_concat" in explainable
    told = ask(client, cat, method="layer_cam", class_index=281)
    assert told["grid"]["shape"] == [13, 13]
    earlier = ask(client, cat, layer="fire5_concat", class_index=281)
    assert earlier["grid"]["shape"] == [27, 27]
    maps = ask(client, cat, "/v1/activations", channels=4, layer="fire5_concat")
    means = [one["mean"] for one in maps["maps"]]
    assert means == sorted(means, reverse=True)
    unknown = client.post(
        "/v1/heatmap",
        params={"model": "squeezenet", "layer": "fire99"},
        content=cat,
        headers={"Content-Type": "image/png"},
    )
    assert (unknown.status_code, unknown.json()["code"]) == (404, "layer_not_found")
    assert "fire9_concat" in unknown.json()["detail"]


def test_a_slow_method_measures_and_does_not_stand_in_the_way(
    client: httpx.Client, cat: bytes
) -> None:
    told = ask(client, cat, method="grad_cam", metrics=True, class_index=281)
    assert 0 <= told["metrics"]["deletion_auc"] <= 1
    assert told["metrics"]["insertion_auc"] >= told["metrics"]["deletion_auc"]

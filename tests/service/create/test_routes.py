"""`/v1/style_transfers` and `/v1/dreams` over HTTP, up to the job that waits."""

import io
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from contracts.create.requests import DreamRequest, StyleTransferRequest
from contracts.settings import Settings
from models.weights.catalog import WeightsMissing
from service.create.submit import ending
from tests.service.parts import FakeServices


def image(width: int = 64, height: int = 48, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


@pytest.fixture(autouse=True)
def style_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Published weights, as far as a request can tell."""
    monkeypatch.setattr("service.create.submit.available_network", lambda *_: "vgg16")
    monkeypatch.setattr("service.create.submit.Weights.find", lambda *_: None)


def paint(client: httpx.Client, styles: int = 1, **form: Any) -> httpx.Response:
    headers = {"Idempotency-Key": form.pop("key")} if "key" in form else {}
    files = [("content", ("a.png", form.pop("content", image())))]
    files += [("style", (f"{n}.jpg", image(kind="JPEG"))) for n in range(styles)]
    return client.post("/v1/style_transfers", files=files, data=form, headers=headers)


def test_style_transfer_becomes_a_job(client: httpx.Client, fakes: FakeServices) -> None:
    answer = paint(client, 2, style_weights="0.7,0.3", size="256", preserve_colors="true")
    assert answer.status_code == 202, answer.text
    assert answer.headers["Location"] == f"/v1/jobs/{answer.json()['id']}"
    kind, request, inputs = fakes.jobs.worked[-1]
    assert kind == "style_transfer"
    assert (request["styles"], request["size"]) == (2, 256)
    assert request["style_weights"] == [0.7, 0.3]
    assert request["preserve_colors"] == "luminance"
    assert request["max_seconds"] == 0.95 * 3600
    assert set(inputs) == {"content.image", "style-0.image", "style-1.image"}


def test_a_job_ends_in_time_whatever_the_operator_allows(
    client: httpx.Client, fakes: FakeServices
) -> None:
    assert paint(client, max_seconds="60").status_code == 202
    assert fakes.jobs.worked[-1][1]["max_seconds"] == 60
    year = Settings(_env_file=None, picture_max_hours=8760, job_max_hours=8760)
    for body in (StyleTransferRequest(), DreamRequest()):
        type(body).model_validate(ending(body, year))  # the worker reads it by the same model


@pytest.mark.parametrize(
    ("styles", "form", "word"),
    [
        (1, {"sise": "256"}, "sise"),
        (1, {"size": "9000"}, "size"),
        (1, {"size": "large"}, "size"),
        (1, {"iterations": "0"}, "iterations"),
        (1, {"init": "photo"}, "init"),
        (2, {"style_weights": "1"}, "style_weights"),
        (2, {"style_weights": ["0", "0"]}, "style_weights"),
        (0, {}, "style"),
        (5, {}, "style"),
        (1, {"content": b"not an image"}, "image"),
        (1, {"content": b""}, "image"),
        (1, {"content": image(8, 8)}, "8 x 8"),
        (1, {"size": "8192"}, "size="),  # more memory than there is
        (1, {"content": image(320, 16), "size": "160"}, "size=320"),  # no map would be left
        (1, {"style_weight": "-1"}, "style_weight"),
        (1, {"content_weight": "nan"}, "content_weight"),
        (1, {"style_scale": "1e9"}, "style_scale"),
    ],
)
def test_impossible_style_transfer_is_refused_at_once(
    client: httpx.Client, fakes: FakeServices, styles: int, form: dict[str, Any], word: str
) -> None:
    answer = paint(client, styles, **form)
    assert answer.status_code == 422, answer.text
    assert answer.json()["code"] in {"validation_error", "invalid_image"}
    assert word in answer.text
    assert fakes.jobs.worked == []


def test_layers_have_the_names_of_papers_too_and_similar_ones_are_named(
    client: httpx.Client, fakes: FakeServices
) -> None:
    assert paint(client, style_layers="conv1_1,block2_conv1", content_layers="relu4_2").is_success
    before = len(fakes.jobs.worked)
    for sent in ({"style_layers": "block1_con1"}, {"content_layers": "block1_con1"}):
        answer = paint(client, **sent)
        assert (answer.status_code, answer.json()["code"]) == (404, "layer_not_found")
        assert "Did you mean block1_conv1" in answer.json()["detail"]
    assert len(fakes.jobs.worked) == before


@pytest.mark.parametrize("form", [{"method": "fast"}, {"init": "fast"}])
def test_missing_weights_of_the_fast_method_are_no_dead_end(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch, form: dict[str, str]
) -> None:
    def missing(*_: Any) -> None:
        raise WeightsMissing("The weights are not here.")

    monkeypatch.setattr("service.create.submit.Weights.find", missing)
    answer = paint(client, **form)
    assert (answer.status_code, answer.json()["code"]) == (503, "model_not_ready")
    assert "method=optimize" in answer.json()["detail"]
    assert paint(client).status_code == 202


def test_a_style_of_other_proportions_than_a_narrow_content_is_refused_for_its_memory(
    client: httpx.Client, fakes: FakeServices
) -> None:
    narrow = image(560, 16, "JPEG")
    answer = paint(client, content=narrow, size="4096", style_scale="2")
    assert answer.status_code == 422, answer.text
    assert "with these styles" in answer.text
    assert fakes.jobs.worked == []


def test_narrow_image_is_enlarged_unless_a_size_is_sent(client: httpx.Client) -> None:
    assert paint(client, content=image(560, 16, "JPEG")).status_code == 202


def test_other_bodies_are_refused(client: httpx.Client) -> None:
    answer = client.post("/v1/style_transfers", json={"size": 256})
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")


def test_too_large_an_image_is_refused(client: httpx.Client) -> None:
    answer = paint(client, content=image(200, 200))
    assert (answer.status_code, answer.json()["code"]) == (413, "payload_too_large")


def dream(client: httpx.Client, **form: Any) -> httpx.Response:
    files = {"image": ("a.png", form.pop("image", image()))}
    return client.post("/v1/dreams", files=files, data=form)


def test_dream_becomes_a_job_with_its_version(
    client: httpx.Client, with_layers: FakeServices
) -> None:
    with_layers.store.promote("squeezenet", 1)
    answer = dream(client, model="squeezenet", layers=["conv1", "fire9_concat"], octaves="2")
    assert answer.status_code == 202, answer.text
    kind, request, inputs = with_layers.jobs.worked[-1]
    assert (kind, set(inputs)) == ("dream", {"dream.image"})
    assert (request["model"], request["version"]) == ("squeezenet", "1")
    assert request["layers"] == ["conv1", "fire9_concat"]


@pytest.mark.parametrize(
    ("form", "code"),
    [
        ({"model": "nothing"}, "model_not_found"),
        ({"layers": "conv9", "model": "squeezenet"}, "layer_not_found"),
        ({"layers": "block9_conv1", "model": "vgg16"}, "layer_not_found"),
        ({"layers": "conv1", "layer_weights": "1,2"}, "validation_error"),
        ({"layers": "block4_conv3", "model": "vgg16", "class_index": "3"}, "validation_error"),
        ({"model": "squeezenet", "class_index": "1000"}, "validation_error"),
        ({"step_size": "5", "step_unit": "range"}, "validation_error"),
        ({"octaves": "0"}, "validation_error"),
        ({"image": b"GIF89a"}, "invalid_image"),
    ],
)
def test_impossible_dream_is_refused_at_once(
    client: httpx.Client, with_layers: FakeServices, form: dict[str, Any], code: str
) -> None:
    with_layers.store.promote("squeezenet", 1)
    assert dream(client, **form).json()["code"] == code
    assert with_layers.jobs.worked == []

"""Heatmaps over HTTP, with a worker that is a function; the real one is in tests/flow."""

import io
import json
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from contracts.queue.explain_messages import ExplainReply, parse_request
from contracts.queue.messages import Reply
from service.explanation import activations
from tests.service.parts import FakeServices, gray_png

JSON = {"Accept": "application/json"}
PNG = {"Content-Type": "image/png"}


def post(
    client: httpx.Client, data: bytes | None = None, path: str = "/v1/heatmap", **params: Any
) -> httpx.Response:
    headers = PNG | (params.pop("headers", None) or {})
    return client.post(path, params=params, content=data or gray_png(), headers=headers)


def test_default_response_is_a_png_of_the_images_size(client: httpx.Client) -> None:
    answer = post(client)
    assert answer.headers["Content-Type"] == "image/png"
    assert Image.open(io.BytesIO(answer.content)).size == (40, 30)
    assert answer.headers["X-Cache"] == "miss"
    assert "render;dur=" in answer.headers["Server-Timing"]


@pytest.mark.parametrize("path", ["/v1/heatmap", "/v1/activations?layer=conv1"])
def test_several_models_are_refused(client: httpx.Client, path: str) -> None:
    answer = post(client, path=path, model=["squeezenet", "pets"])
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_error")
    assert "one 'model'" in answer.json()["detail"]


def test_json_on_request(client: httpx.Client) -> None:
    body = post(client, gray_png(100), headers=JSON).json()
    assert (body["model"], body["method"], body["layer"]) == (
        "squeezenet",
        "grad_cam",
        "fire9_concat",
    )
    assert body["target"] == {
        "index": 100,
        "id": "n00000100",
        "label": "class 100",
        "probability": 0.75,
        "space": "logit",
    }
    assert body["grid"] == {"shape": [2, 2], "values": [[1.0, 0.5], [0.25, 0.0]]}
    assert body["empty"] is False
    assert (body["width"], body["height"]) == (40, 30)
    region = body["region"]
    assert region["width"] == pytest.approx(region["height"], rel=0.01), "the network sees a square"
    assert 0 < region["x"] < region["x"] + region["width"] < 40


def test_no_evidence_gives_zeros_and_a_flag(client: httpx.Client) -> None:
    body = post(client, headers=JSON, class_index=7).json()
    assert body["empty"] is True
    assert body["grid"]["values"] == [[0, 0], [0, 0]]
    assert post(client, class_index=7, legend=True).status_code == 200


def test_several_classes_give_several_maps(client: httpx.Client, fakes: FakeServices) -> None:
    body = post(client, headers=JSON, class_index=[3, 281]).json()
    assert [one["target"]["index"] for one in body["maps"]] == [3, 281]
    assert "grid" not in body
    assert fakes.dispatcher.asked[-1][1] == [3, 281]
    strip = Image.open(io.BytesIO(post(client, class_index=[3, 281]).content))
    assert strip.size == (88, 30)


def test_several_images_have_separate_results(client: httpx.Client) -> None:
    files = [
        ("image", (name, data, "image/png"))
        for name, data in (("a", gray_png(50)), ("b", b"x"), ("c", gray_png(60)))
    ]
    body = client.post("/v1/heatmap", files=files, headers=JSON).json()
    first, second, third = body["results"]
    assert (first["target"]["index"], third["target"]["index"]) == (50, 60)
    assert second["error"]["code"] == "invalid_image"
    refused = client.post("/v1/heatmap", files=files)
    assert (refused.status_code, refused.json()["code"]) == (422, "validation_error")
    assert "application/json" in refused.json()["detail"]


def test_repeated_request_is_served_from_the_cache(
    client: httpx.Client, fakes: FakeServices
) -> None:
    first = post(client, headers=JSON, class_index=3).json()
    assert first["cached"] is False
    asked = len(fakes.dispatcher.asked)
    again = post(client, headers=JSON, class_index=3).json()
    assert again["cached"] is True
    assert again["grid"] == first["grid"]
    assert post(client, class_index=3).headers["X-Cache"] == "hit"
    assert len(fakes.dispatcher.asked) == asked
    assert post(client, headers=JSON, class_index=4).json()["cached"] is False
    assert post(client, headers=JSON, class_index=3, method="layer_cam").json()["cached"] is False


def test_equivalent_request_is_served_from_the_cache(client: httpx.Client) -> None:
    def cached(**params: Any) -> bool:
        response: bool = post(client, headers=JSON, **params).json()["cached"]
        return response

    assert not cached(seed=1)
    assert cached(seed=2, layer="fire9_concat")
    assert not cached(method="smooth_grad", seed=1)
    assert not cached(method="smooth_grad", seed=2)


@pytest.mark.parametrize(
    ("params", "lane"),
    [
        ({}, "heatmap"),
        ({"method": "hires_cam", "layer": "fire9_concat"}, "heatmap"),
        ({"layer": "fire5_concat"}, "explain"),
        ({"method": "layer_cam"}, "explain"),
        ({"metrics": True}, "study"),
        ({"method": "occlusion"}, "study"),
    ],
)
def test_request_goes_to_the_right_queue(
    client: httpx.Client, fakes: FakeServices, params: dict[str, Any], lane: str
) -> None:
    assert post(client, **params).status_code == 200
    operation, _, note = fakes.dispatcher.asked[-1]
    assert operation == lane
    named = params.get("layer")
    assert parse_request(note).layer == (None if named == "fire9_concat" else named)


@pytest.mark.parametrize(
    "params",
    [
        {"class_index": 1000},
        {"class_index": -1},
        {"class_index": list(range(17))},
        {"method": "guess"},
        {"colormap": "rainbow"},
        {"alpha": 1.5},
        {"layer": ""},
        {"method": "occlusion", "layer": "fire9_concat"},
        {"clas_index": 1},
    ],
)
def test_invalid_request_is_refused_before_computing(
    client: httpx.Client, fakes: FakeServices, params: dict[str, Any]
) -> None:
    answer = post(client, **params)
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_error")
    assert fakes.dispatcher.asked == []


def test_unreadable_image_is_refused(client: httpx.Client) -> None:
    answer = post(client, b"no image")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_image")


def test_job_has_the_files_and_the_request(client: httpx.Client, fakes: FakeServices) -> None:
    answer = post(client, headers={"Prefer": "respond-async"}, method="score_cam", class_index=3)
    assert answer.status_code == 202
    assert answer.headers["Location"] == f"/v1/jobs/{answer.json()['id']}"
    assert answer.json()["kind"] == "heatmap"
    kind, request, inputs = fakes.jobs.worked[-1]
    assert kind == "heatmap"
    assert request["question"]["method"] == "score_cam"
    assert (request["version"], request["classes"]) == (1, [3])
    assert inputs == {"image-000": gray_png()}
    json.dumps(request)


def test_activations_as_a_job(client: httpx.Client, fakes: FakeServices) -> None:
    headers = {"Prefer": "respond-async", "Idempotency-Key": "k"}
    path = "/v1/activations"
    first = post(client, path=path, headers=headers, channels=3)
    assert (first.status_code, first.json()["kind"]) == (202, "activations")
    assert first.headers["Location"] == f"/v1/jobs/{first.json()['id']}"
    assert first.headers["Preference-Applied"] == "respond-async"
    (kind, request, inputs) = fakes.jobs.worked[0]
    assert (kind, request["question"]["channels"]) == ("activations", 3)
    assert list(inputs) == ["image-000"]
    assert post(client, path=path, headers=headers, channels=3).json()["id"] == first.json()["id"]
    assert post(client, path=path, headers=headers, channels=4).status_code == 409
    assert "resize" not in fakes.jobs.worked[0][1]
    refused = post(client, b"no image", path=path, headers={"Prefer": "respond-async"})
    assert (refused.status_code, len(fakes.jobs.worked)) == (422, 1)
    whole = {"Prefer": "respond-async"}
    assert post(client, path=path, headers=whole, resize="squash").status_code == 202
    assert fakes.jobs.worked[-1][1]["resize"] == "squash"
    assert post(client, path=path, resize="stretch").status_code == 422


def test_activations_as_png_and_json(client: httpx.Client, fakes: FakeServices) -> None:
    body = post(client, path="/v1/activations", headers=JSON, channels=3).json()
    assert (body["channels"], body["shape"]) == (3, [2, 2])
    blank, second, _ = body["maps"]
    assert (blank["blank"], second["blank"]) == (True, False)
    assert second["values"] == [[0, 1], [1, 0]]
    assert fakes.dispatcher.asked[-1][0] == "explain"
    answer = post(client, path="/v1/activations", channels=3)
    sheet = np.asarray(Image.open(io.BytesIO(answer.content)))
    assert sheet.std() > 10
    assert answer.headers["X-Cache"] == "hit"


@pytest.mark.parametrize("headers", [{}, {"Prefer": "respond-async"}])
@pytest.mark.parametrize(
    ("layer", "status", "code"),
    [("fire99", 404, "layer_not_found"), ("predictions", 422, "validation_error")],
)
def test_unknown_layer_is_refused_before_the_image_is_read(
    client: httpx.Client,
    with_layers: FakeServices,
    headers: dict[str, str],
    layer: str,
    status: int,
    code: str,
) -> None:
    answer = post(client, b"no image", layer=layer, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert "fire9_concat" in answer.json()["detail"]
    response = post(client, b"no image", path="/v1/activations", layer=layer)
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert with_layers.dispatcher.asked == []
    assert post(client, layer="conv1").status_code == 200


def test_too_many_numbers_are_refused_before_the_image_is_read(
    client: httpx.Client, with_layers: FakeServices
) -> None:
    path = "/v1/activations"
    answer = post(client, b"no image", path=path, layer="conv1", channels=64, headers=JSON)
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_error")
    assert "channels=39" in answer.json()["detail"]
    assert with_layers.dispatcher.asked == []
    assert post(client, path=path, layer="conv1", channels=39, headers=JSON).status_code == 200
    assert post(client, path=path, layer="conv1", channels=64).status_code == 200


@pytest.mark.parametrize("prefer", ["", "respond-async"], ids=["PNG", "job"])
def test_what_is_drawn_is_bounded_too(
    client: httpx.Client, with_layers: FakeServices, monkeypatch: pytest.MonkeyPatch, prefer: str
) -> None:
    """A version with a large input has layers of 64 maps of 1024 x 1024."""
    monkeypatch.setattr(activations, "MAX_DRAWN_NUMBERS", 500_000)
    headers, path = {"Accept": "image/png", "Prefer": prefer}, "/v1/activations"
    answer = post(client, path=path, layer="conv1", channels=64, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_error")
    assert "Ask for channels=39 or less." in answer.json()["detail"]
    assert with_layers.dispatcher.asked == []
    assert post(client, path=path, layer="conv1", channels=39, headers=headers).is_success


def test_an_image_that_is_kept_to_be_drawn_on_counts_while_it_waits(
    client: httpx.Client, fakes: FakeServices
) -> None:
    """Nine kilobytes of one color are eight megabytes."""
    image = io.BytesIO()
    Image.new("RGB", (1414, 1414)).save(image, "PNG")
    assert post(client, image.getvalue()).status_code == 200
    assert post(client, image.getvalue(), headers=JSON).status_code == 200
    assert fakes.dispatcher.kept[0] == 4 * 1414 * 1414
    assert fakes.dispatcher.kept[1:] in ([], [0]), "numbers are not drawn"


def test_a_large_heatmap_is_drawn_as_one(client: httpx.Client, fakes: FakeServices) -> None:
    """It waits with the large ones, for its share of the pixels that are in memory."""
    image = io.BytesIO()
    Image.new("L", (2100, 2000)).save(image, "PNG")
    assert post(client, image.getvalue()).status_code == 200
    assert fakes.renderer.pixels == [2100 * 2000]


def test_renderer_draws_and_writes_large_responses(
    client: httpx.Client, fakes: FakeServices
) -> None:
    assert post(client).headers["Vary"] == "Accept"
    assert post(client, path="/v1/activations", headers=JSON).headers["Vary"] == "Accept"
    assert (fakes.decoder.runs, fakes.renderer.runs) == (0, 2)
    assert post(client, headers=JSON).headers["Vary"] == "Accept"
    assert fakes.renderer.runs == 2, "four numbers are written at once"
    rows = np.ones((80, 80), np.float32)
    note = ExplainReply(shape=(80, 80), layer="conv1", target=3, probability=0.5)
    fakes.dispatcher.answers = [
        Reply(bytes(16), 1, 1, 0.0, 0.0, vector=rows.ravel(), note=note.pack())
    ]
    body = post(client, gray_png(31), headers=JSON, layer="conv1").json()
    assert body["grid"]["values"] == rows.tolist()
    assert (fakes.decoder.runs, fakes.renderer.runs) == (0, 3)

"""From an image to its class, with every process real."""

import csv
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from models.catalog import CATALOG
from models.images.decode import decode
from models.serving.predictor import load_version
from models.store.store import Store
from tests.conftest import SHARED
from tests.flow.conftest import RUNNING, Networks, Start
from tests.flow.installation import READY_SECONDS, Installation
from tests.images import encoded, hostile_images, motion_photo, scene
from tests.phone_heic import iphone_heic

MODELS = ("efficientnet_lite0", "squeezenet")
CASES = hostile_images()


def ready(running: Installation) -> set[str]:
    items = running.get("/v1/models").json()["items"]
    return {model["name"] for model in items if model["state"] == "ready"}


def post(client: httpx.Client, data: bytes, kind: str = "image/png", **params: Any) -> Any:
    return client.post("/v1/classify", params=params, content=data, headers={"Content-Type": kind})


@pytest.mark.parametrize(
    ("photo", "labels"),
    [
        ("cat.png", {"tabby", "tiger cat", "Egyptian cat"}),
        ("coffee.png", {"espresso", "cup", "coffee mug"}),
    ],
)
def test_a_photo_gets_its_label(
    client: httpx.Client, photos: Path, photo: str, labels: set[str]
) -> None:
    answer = post(client, (photos / photo).read_bytes())
    assert answer.status_code == 200
    body = answer.json()
    assert body["model"] == "efficientnet_lite0"
    assert body["version"] == 1
    (result,) = body["results"]
    predictions = result["predictions"]
    assert len(predictions) == 5
    assert predictions[0]["label"] in labels
    probabilities = [p["probability"] for p in predictions]
    assert probabilities == sorted(probabilities, reverse=True)
    assert body["timing_ms"].keys() == {"decode", "queue", "compute", "total"}
    assert answer.headers["X-Request-Id"]


@pytest.mark.parametrize("photo", ["cat.png", "astronaut.png"])
def test_what_phones_make_of_a_photo_gets_the_label_of_its_jpeg(
    client: httpx.Client, photos: Path, photo: str
) -> None:
    with Image.open(photos / photo) as opened:
        image = opened.convert("RGB")
    jpeg = encoded(image, "JPEG", quality=92)
    expected, *_ = post(client, jpeg, "image/jpeg").json()["results"][0]["predictions"]
    for data in (motion_photo(jpeg), iphone_heic(image)):
        answer = post(client, data, "application/octet-stream")
        assert answer.status_code == 200, answer.text
        found, *_ = answer.json()["results"][0]["predictions"]
        assert found["label"] == expected["label"]
        assert found["probability"] == pytest.approx(expected["probability"], abs=0.1)


def test_each_image_of_a_batch_has_its_own_result(client: httpx.Client, photos: Path) -> None:
    cat = (photos / "cat.png").read_bytes()
    files = [
        ("image", ("cat.png", cat, "image/png")),
        ("image", ("broken.jpg", cat[:5000], "image/jpeg")),
        ("image", ("coffee.png", (photos / "coffee.png").read_bytes(), "image/png")),
    ]
    body = client.post("/v1/classify", files=files).raise_for_status().json()
    first, second, third = body["results"]
    assert (first["name"], third["name"]) == ("cat.png", "coffee.png")
    assert second["error"]["code"] == "invalid_image"
    assert "predictions" not in second or second["predictions"] is None
    assert first["predictions"][0]["label"] != third["predictions"][0]["label"]
    alone = post(client, cat).json()["results"][0]["predictions"]
    for single, batched in zip(alone, first["predictions"], strict=True):
        assert single["index"] == batched["index"]
        assert single["probability"] == pytest.approx(batched["probability"], abs=1e-5)


@pytest.mark.parametrize("operation", ["classify", "embed"])
def test_two_models_answer_as_each_of_them_alone(
    client: httpx.Client, photos: Path, operation: str
) -> None:
    data, headers = (photos / "cat.png").read_bytes(), {"Content-Type": "image/png"}

    def ask(*models: str) -> Any:
        asked = {"model": list(models)}
        answer = client.post(f"/v1/{operation}", params=asked, content=data, headers=headers)
        assert answer.status_code == 200, answer.text
        return answer.json()

    both = ask(*MODELS)
    assert [one["model"] for one in both["models"]] == list(MODELS)
    for one in both["models"]:
        alone = ask(one["model"])
        assert "models" not in alone
        (mine,), (other,) = one["results"], alone["results"]
        if operation == "embed":
            np.testing.assert_allclose(mine["embedding"], other["embedding"], atol=1e-4)
        else:
            assert [p["label"] for p in mine["predictions"]] == [
                p["label"] for p in other["predictions"]
            ]


def test_thirty_two_images_in_one_request(client: httpx.Client) -> None:
    files = [("image", (f"{n}.png", encoded(scene(), "PNG"), "image/png")) for n in range(32)]
    body = client.post("/v1/classify", files=files).raise_for_status().json()
    assert [result["name"] for result in body["results"]] == [f"{n}.png" for n in range(32)]
    assert body["batch_size"] > 1


def test_squash_gives_another_result_than_crop(client: httpx.Client, photos: Path) -> None:
    cat = (photos / "cat.png").read_bytes()
    crop, squash = (post(client, cat, resize=way).json() for way in ("crop", "squash"))
    assert crop["results"] != squash["results"]


def test_an_embedding_has_the_features_of_the_network(client: httpx.Client, photos: Path) -> None:
    cat = (photos / "cat.png").read_bytes()
    body = client.post("/v1/embed", content=cat, headers={"Content-Type": "image/png"}).json()
    vector = body["results"][0]["embedding"]
    assert len(vector) == CATALOG[body["model"]].features
    assert np.isfinite(vector).all()
    assert np.any(vector)


@pytest.mark.slow  # importing VGG16 takes half a minute
def test_vgg16_without_its_classifier_still_embeds(start: Start, photos: Path) -> None:
    env = {"OPSIN_WEIGHTS_DIR": str(SHARED / "weights")} if SHARED.is_dir() else {}
    running = start(OPSIN_MODELS="efficientnet_lite0,vgg16", **env)
    running.wait_until(running.is_settled, READY_SECONDS)
    model = running.get("/v1/models/vgg16").json()
    if model["state"] == "ready":
        pytest.skip("the whole VGG16 is on this machine")
    if "embed" not in model["operations"]:
        pytest.skip("no part of VGG16 is on this machine")
    assert model["state"] == "unavailable"
    assert "opsin weights pull" in model["reason"]
    cat = (photos / "cat.png").read_bytes()
    with httpx.Client(base_url=running.url, timeout=60) as client:
        refused = post(client, cat, model="vgg16")
        assert (refused.status_code, refused.json()["code"]) == (503, "model_not_ready")
        answer = client.post(
            "/v1/embed",
            params={"model": "vgg16"},
            content=cat,
            headers={"Content-Type": "image/png"},
        )
    assert len(answer.json()["results"][0]["embedding"]) == 512


@pytest.mark.parametrize("case", CASES)
def test_hostile_images(client: httpx.Client, case: str) -> None:
    data, code = CASES[case]
    # The declared type is wrong on purpose: only the bytes count.
    answer = post(client, data, kind="image/jpeg")
    body = answer.json()
    if code is None:
        assert answer.status_code == 200, body
        assert sum(p["probability"] for p in body["results"][0]["predictions"]) > 0
    else:
        assert answer.status_code == 422, body
        assert body["code"] == code
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert body["request_id"] == answer.headers["X-Request-Id"]


def test_a_wrong_content_type_is_refused(client: httpx.Client) -> None:
    answer = post(client, b"{}", kind="application/json")
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")


def test_an_empty_body_is_refused(client: httpx.Client) -> None:
    answer = post(client, b"")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_image")


def test_a_body_that_is_too_large_is_refused(client: httpx.Client) -> None:
    answer = post(client, b"\xff" * (17 * 1024 * 1024), kind="image/jpeg")
    assert (answer.status_code, answer.json()["code"]) == (413, "payload_too_large")


@pytest.mark.parametrize(
    ("params", "status", "code"),
    [
        ({"model": "resnet"}, 404, "model_not_found"),
        ({"version": "7"}, 404, "version_not_found"),
        ({"top_k": "0"}, 422, "validation_error"),
        ({"resize": "stretch"}, 422, "validation_error"),
    ],
)
def test_a_wrong_parameter_is_refused(
    client: httpx.Client, photos: Path, params: dict[str, str], status: int, code: str
) -> None:
    answer = post(client, (photos / "cat.png").read_bytes(), **params)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_the_system_page_lists_workers_and_queues(client: httpx.Client) -> None:
    system = client.get("/v1/system").json()
    assert len(system["workers"]) == 1
    assert any(queue["name"].startswith("lane:efficientnet_lite0") for queue in system["queues"])
    assert client.get("/healthz").status_code == 200


@pytest.mark.shared
@pytest.mark.parametrize("model", MODELS)
def test_http_answers_equal_those_of_the_version(
    running: Installation, client: httpx.Client, shared: Path, networks: Networks, model: str
) -> None:
    """On a quarter of the images; `python -m benchmarks.serving.accuracy` compares all of them."""
    if model not in ready(running):
        pytest.skip(f"{model} is not ready here")
    predictor = load_version(Store(networks(*RUNNING)), model, max_batch_size=8)
    folder = shared / "data/imagenet-samples"
    with (folder / "labels.csv").open(newline="") as file:
        names = [row["file"] for row in csv.DictReader(file)][::4]
    for name in names:
        data = (folder / name).read_bytes()
        served = post(client, data, kind="image/jpeg", model=model, top_k=5).json()
        image = decode(data, network=CATALOG[model], max_pixels=50_000_000)
        direct = predictor.run("classify", image.pixels[np.newaxis])[0]
        predictions = served["results"][0]["predictions"]
        assert [p["index"] for p in predictions] == np.argsort(-direct)[:5].tolist(), name
        for p in predictions:
            assert p["probability"] == pytest.approx(float(direct[p["index"]]), abs=1e-3)


def test_a_request_id_is_in_the_response_and_the_log(
    running: Installation, client: httpx.Client
) -> None:
    answer = client.get("/v1/models", headers={"X-Request-Id": "from-me-42"})
    assert answer.headers["X-Request-Id"] == "from-me-42"

    def is_logged() -> bool:  # a moment after the response
        lines = [json.loads(line) for line in running.log("api").splitlines() if line[:1] == "{"]
        return any(line.get("request_id") == "from-me-42" for line in lines)

    running.wait_until(is_logged, 60)

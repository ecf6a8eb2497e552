import base64
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest

from service.protocols import tfserving
from tests.service.parts import SERVED, FakeServices, gray_png
from tests.service.protocols.bases import serve_base
from tests.service.registry.test_version_routes import publish

SHAPE = (227, 227, 3)
PREDICT = "/v1/models/squeezenet:predict"


def gray(level: int) -> object:
    return np.full(SHAPE, level, np.uint8).tolist()


def b64(level: int) -> dict[str, str]:
    return {"b64": base64.b64encode(gray_png(level)).decode()}


@pytest.mark.parametrize("where", ["", "/versions/1", "/labels/champion"])
def test_instances_give_predictions(client: httpx.Client, where: str) -> None:
    body = {"signature_name": "serving_default", "instances": [gray(10), gray(20)]}
    answer = client.post(f"/v1/models/squeezenet{where}:predict", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json().keys() == {"predictions"}
    rows = np.array(answer.json()["predictions"])
    assert rows.shape == (2, 1000)
    assert rows.argmax(axis=1).tolist() == [10, 20]


def test_inputs_give_outputs(client: httpx.Client) -> None:
    body = {"signature_name": "features", "inputs": {"image": [gray(7)]}}
    outputs = client.post(PREDICT, json=body).json()["outputs"]
    assert (len(outputs), len(outputs[0]), np.argmax(outputs[0])) == (1, 512, 7)


def test_encoded_images_are_decoded_like_uploads(client: httpx.Client) -> None:
    body = {"instances": [b64(40), {"image": gray(50)}, {"image": b64(60)}]}
    rows = client.post(PREDICT, json=body).json()["predictions"]
    assert [int(np.argmax(row)) for row in rows] == [40, 50, 60]


@pytest.mark.parametrize("image", ["encoded", "numbers"])
def test_images_that_were_decoded_for_another_version_are_refused(
    client: httpx.Client, fakes: FakeServices, monkeypatch: pytest.MonkeyPatch, image: str
) -> None:
    """A promotion in between; what the client has resized itself is as right as before."""
    squashing = SERVED.manifest.model_copy(update={"geometry": "squash"})

    def parse(*args: Any) -> tfserving.ParsedPredict:
        fakes.workers.others["squeezenet"] = replace(SERVED, manifest=squashing)
        return original(*args)

    original = tfserving.parse_predict
    monkeypatch.setattr(tfserving, "parse_predict", parse)
    body = {"instances": [b64(10) if image == "encoded" else gray(10)]}
    answer = client.post(PREDICT, json=body)
    assert answer.status_code == (503 if image == "encoded" else 200)
    assert client.post(PREDICT, json=body).status_code == 200


@pytest.mark.parametrize(
    ("bad", "status"),
    [
        ({"b64": base64.b64encode(b"no picture").decode()}, 422),
        ({"b64": "?"}, 422),
        ({"b64": base64.b64encode(bytes(20_001)).decode()}, 413),
    ],
)
def test_error_names_the_invalid_image(
    client: httpx.Client, bad: dict[str, str], status: int
) -> None:
    answer = client.post(PREDICT, json={"instances": [b64(1), bad]})
    assert answer.status_code == status
    assert answer.json()["error"].startswith("Image 1: ")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/models/nobody:predict", 404),
        ("/v1/models/squeezenet/versions/7:predict", 404),
        ("/v1/models/squeezenet/labels/canary:predict", 404),
        ("/v1/models/squeezenet/labels/1:predict", 422),
        ("/v1/models/squeezenet/versions/a%20b:predict", 422),
        ("/v1/models/squeezenet:predict", 400),
    ],
)
def test_errors_have_tensorflow_servings_format(
    client: httpx.Client, path: str, status: int
) -> None:
    answer = client.post(path, content=b"{")
    assert (answer.status_code, answer.json().keys()) == (status, {"error"})


def test_dispatcher_errors_are_returned(client: httpx.Client, fakes: FakeServices) -> None:
    fakes.dispatcher.delay = 5
    headers = {"X-Timeout-Ms": "300"}
    late = client.post(PREDICT, json={"instances": [b64(1)]}, headers=headers)
    assert (late.status_code, late.json().keys()) == (504, {"error"})
    assert fakes.dispatcher.cancelled == 1


@pytest.mark.parametrize("where", ["", "/versions/1", "/labels/champion"])
def test_metadata(client: httpx.Client, where: str) -> None:
    metadata = client.get(f"/v1/models/squeezenet{where}/metadata").json()
    assert metadata["model_spec"] == {"name": "squeezenet", "signature_name": "", "version": "1"}
    signatures = metadata["metadata"]["signature_def"]["signature_def"]
    assert signatures.keys() == {"serving_default", "serve", "features"}
    image = signatures["serve"]["inputs"]["image"]
    assert image["dtype"] == "DT_UINT8"
    sizes = [one["size"] for one in image["tensor_shape"]["dim"]]
    assert sizes == ["-1", "227", "227", "3"]


@pytest.mark.parametrize("path", ["nobody", "squeezenet/versions/2", "squeezenet/labels/2"])
def test_metadata_of_unknown_models_is_refused(client: httpx.Client, path: str) -> None:
    answer = client.get(f"/v1/models/{path}/metadata")
    assert answer.status_code in {404, 422}
    assert answer.json().keys() == {"error"}


def test_an_alias_with_a_word_of_the_protocol_has_the_errors_of_opsin(
    client: httpx.Client,
) -> None:
    for path in ("/v1/models/nobody/aliases/metadata", "/v1/models/nobody/aliases/champion"):
        answer = client.delete(path)
        assert answer.headers["Content-Type"] == "application/problem+json"
    assert client.get("/v1/models/metadata").json()["code"] == "model_not_found"


def test_model_detail_has_version_status(client: httpx.Client) -> None:
    model = client.get("/v1/models/squeezenet").json()
    assert model["name"] == "squeezenet"
    assert model["model_version_status"] == [
        {
            "version": "1",
            "state": "AVAILABLE",
            "status": {"error_code": "OK", "error_message": ""},
        }
    ]
    gone = client.get("/v1/models/vgg16").json()["model_version_status"]
    assert (gone[0]["state"], gone[0]["status"]["error_code"]) == ("END", "UNAVAILABLE")


@pytest.mark.parametrize("where", ["", "/versions/1", "/labels/champion"])
def test_status_of_a_model_of_a_version_and_of_a_label(
    client: httpx.Client, fakes: FakeServices, where: str
) -> None:
    publish(fakes.store)
    status = client.get(f"/v1/models/squeezenet{where}").json()["model_version_status"]
    assert [(one["version"], one["state"]) for one in status] == [("1", "AVAILABLE")]


@pytest.mark.parametrize("label", ["canary", "1"])
def test_status_of_an_unknown_label_is_refused(client: httpx.Client, label: str) -> None:
    answer = client.get(f"/v1/models/squeezenet/labels/{label}")
    assert answer.status_code in {404, 422}
    assert answer.json().keys() == {"error"}


@pytest.mark.parametrize("where", ["", "/versions/1", "/labels/champion"])
@pytest.mark.parametrize("method", ["classify", "regress", "explain"])
@pytest.mark.parametrize("verb", ["GET", "POST"])
def test_other_methods_are_refused_in_words(
    client: httpx.Client, verb: str, where: str, method: str
) -> None:
    answer = client.request(verb, f"/v1/models/squeezenet{where}:{method}", json={"examples": []})
    assert answer.status_code == 404
    assert answer.json().keys() == {"error"}
    assert f":{method}" in answer.json()["error"]
    assert ":predict" in answer.json()["error"]


@pytest.mark.parametrize("method", ["multiInference", "predictions"])
def test_an_unknown_method_is_refused_in_its_form(client: httpx.Client, method: str) -> None:
    answer = client.post(f"/v1/models/squeezenet:{method}", json={"instances": []})
    assert (answer.status_code, answer.json().keys()) == (405, {"error"})


def test_a_base_without_a_head_predicts_features(client: httpx.Client, fakes: FakeServices) -> None:
    serve_base(fakes.workers)
    answer = client.post("/v1/models/vgg16:predict", json={"instances": [b64(9)]})
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["predictions"][0]) == 512
    metadata = client.get("/v1/models/vgg16/metadata").json()
    signatures = metadata["metadata"]["signature_def"]["signature_def"]
    assert signatures.keys() == {"serving_default", "features"}
    assert signatures["serving_default"]["outputs"].keys() == {"features"}
    refused = client.post(
        "/v1/models/vgg16:predict", json={"instances": [b64(9)], "signature_name": "serve"}
    )
    assert refused.status_code == 422
    model = client.get("/v1/models/vgg16").json()
    assert (model["state"], model["ready"]) == ("ready", True)
    assert model["model_version_status"][0]["state"] == "AVAILABLE"

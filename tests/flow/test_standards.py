"""Stock clients of the standard protocols, unchanged, against a real installation."""

import base64
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton

from contracts.queue.messages import Pixels
from models.catalog import CATALOG
from models.images.decode import decode
from tests.flow.installation import ROOT, Installation

MODEL = "efficientnet_lite0"
NETWORK = CATALOG[MODEL]
PHOTOS = ("cat.png", "coffee.png", "astronaut.png")
TOLERANCE = 1e-4


@pytest.fixture
def files(photos: Path) -> list[bytes]:
    return [(photos / name).read_bytes() for name in PHOTOS]


@pytest.fixture
def pixels(files: list[bytes]) -> Pixels:
    """The network's input for each photo, as the service decodes it."""
    images = [decode(data, network=NETWORK, max_pixels=50_000_000) for data in files]
    return np.stack([image.pixels for image in images])


@pytest.fixture
def served(client: httpx.Client, files: list[bytes]) -> Any:
    """All probabilities of each photo from `/v1/classify`, (3, 1000)."""
    rows = np.zeros((len(files), NETWORK.classes), np.float32)
    for row, data in zip(rows, files, strict=True):
        answer = client.post(
            "/v1/classify",
            params={"model": MODEL, "top_k": NETWORK.classes},
            content=data,
            headers={"Content-Type": "image/png"},
        )
        for prediction in answer.json()["results"][0]["predictions"]:
            row[prediction["index"]] = prediction["probability"]
    assert np.allclose(rows.sum(axis=1), 1, atol=1e-3)
    return rows


@pytest.fixture
def stock(running: Installation) -> Iterator[Any]:
    with triton.InferenceServerClient(running.url.removeprefix("http://")) as client:
        yield client


def image_of(pixels: Pixels, *, binary: bool) -> Any:
    tensor = triton.InferInput("image", list(pixels.shape), "UINT8")
    tensor.set_data_from_numpy(pixels, binary_data=binary)
    return tensor


def test_triton_reads_health_and_metadata(stock: Any) -> None:
    assert stock.is_server_live()
    assert stock.is_server_ready()
    assert stock.is_model_ready(MODEL)
    assert stock.is_model_ready(MODEL, "1")
    assert not stock.is_model_ready("unknown")
    assert "binary_tensor_data" in stock.get_server_metadata()["extensions"]
    metadata = stock.get_model_metadata(MODEL, "1")
    assert metadata["inputs"] == [
        {"name": "image", "datatype": "UINT8", "shape": [-1, *NETWORK.input_size, 3]}
    ]
    assert stock.get_model_config(MODEL)["input"][0]["dims"] == [*NETWORK.input_size, 3]
    index = {one["name"]: one["state"] for one in stock.get_model_repository_index()}
    assert index[MODEL] == "READY"


@pytest.mark.parametrize("out", [True, False], ids=["binary out", "json out"])
@pytest.mark.parametrize("into", [True, False], ids=["binary in", "json in"])
def test_triton_gets_what_classify_says(
    stock: Any, pixels: Pixels, served: Any, into: bool, out: bool
) -> None:
    outputs = [triton.InferRequestedOutput("probabilities", binary_data=out)]
    result = stock.infer(MODEL, [image_of(pixels, binary=into)], outputs=outputs, request_id="7")
    probabilities = result.as_numpy("probabilities")
    assert probabilities.shape == served.shape
    assert np.abs(probabilities - served).max() < TOLERANCE
    response = result.get_response()
    assert (response["model_name"], response["model_version"]) == (MODEL, "1")
    assert response["id"] == "7"


def test_triton_gets_probabilities_by_default(stock: Any, pixels: Pixels, served: Any) -> None:
    result = stock.infer(MODEL, [image_of(pixels, binary=True)], model_version="1", timeout=10**7)
    assert np.abs(result.as_numpy("probabilities") - served).max() < TOLERANCE


def test_triton_gets_both_outputs(
    stock: Any, client: httpx.Client, pixels: Pixels, files: list[bytes], served: Any
) -> None:
    outputs = [
        triton.InferRequestedOutput("features", binary_data=True),
        triton.InferRequestedOutput("probabilities", binary_data=False),
    ]
    result = stock.infer(MODEL, [image_of(pixels, binary=True)], outputs=outputs)
    assert np.abs(result.as_numpy("probabilities") - served).max() < TOLERANCE
    answer = client.post(
        "/v1/embed",
        params={"model": MODEL},
        content=files[0],
        headers={"Content-Type": "image/png"},
    )
    embedding = answer.json()["results"][0]["embedding"]
    assert np.abs(result.as_numpy("features")[0] - embedding).max() < TOLERANCE


def test_triton_gets_labels(stock: Any, client: httpx.Client, pixels: Pixels, served: Any) -> None:
    outputs = [triton.InferRequestedOutput("probabilities", class_count=3)]
    texts = stock.infer(MODEL, [image_of(pixels, binary=True)], outputs=outputs)
    rows = [[text.decode() for text in row] for row in texts.as_numpy("probabilities")]
    assert [len(row) for row in rows] == [3, 3, 3]
    best = [int(row[0].split(":")[1]) for row in rows]
    assert best == served.argmax(axis=1).tolist()
    assert "cat" in rows[0][0].split(":", 2)[2]


def test_triton_reads_statistics(stock: Any, pixels: Pixels) -> None:
    (before,) = stock.get_inference_statistics(MODEL)["model_stats"]
    stock.infer(MODEL, [image_of(pixels, binary=True)])
    deadline = time.monotonic() + 60  # the worker reports once a second
    while time.monotonic() < deadline:
        (after,) = stock.get_inference_statistics(MODEL, "1")["model_stats"]
        if after["inference_count"] > before["inference_count"]:
            break
        time.sleep(0.2)
    assert after["inference_count"] >= before["inference_count"] + len(pixels)
    spent = after["inference_stats"]
    assert spent["compute_infer"]["ns"] > before["inference_stats"]["compute_infer"]["ns"]
    assert (
        sum(one["compute_infer"]["count"] for one in after["batch_stats"])
        == (after["execution_count"])
    )
    names = [one["name"] for one in stock.get_inference_statistics()["model_stats"]]
    assert MODEL in names


def test_triton_prepares_and_cleans_up_as_its_examples_do(stock: Any, pixels: Pixels) -> None:
    stock.load_model(MODEL)
    assert stock.get_system_shared_memory_status() == []
    stock.unregister_system_shared_memory()
    stock.unregister_cuda_shared_memory()
    whole = {"sequence_id": 7, "sequence_start": True, "sequence_end": True}
    assert stock.infer(MODEL, [image_of(pixels, binary=True)], **whole) is not None
    refused = [
        lambda: stock.register_system_shared_memory("region", "/key", 100),
        lambda: stock.unload_model(MODEL),
        lambda: stock.get_trace_settings(MODEL),
        stock.get_log_settings,
        lambda: stock.infer(MODEL, [image_of(pixels, binary=True)], sequence_id=7),
    ]
    for ask in refused:
        with pytest.raises(Exception, match="does not support"):
            ask()


def test_triton_sends_concurrent_requests(stock: Any, pixels: Pixels, served: Any) -> None:
    requests = [stock.async_infer(MODEL, [image_of(pixels, binary=True)]) for _ in range(8)]
    for request in requests:
        probabilities = request.get_result().as_numpy("probabilities")
        assert np.abs(probabilities - served).max() < TOLERANCE


@pytest.mark.parametrize(
    ("shape", "datatype", "message"),
    [
        ([1, 224, 224, 3], "FP32", "UINT8"),
        ([1, 3, 224, 224], "UINT8", "[-1, 224, 224, 3]"),
        ([33, 224, 224, 3], "UINT8", "1 to 32 images"),
    ],
)
def test_triton_gets_the_error_message(
    stock: Any, shape: list[int], datatype: str, message: str
) -> None:
    dtype = np.uint8 if datatype == "UINT8" else np.float32
    tensor = triton.InferInput("image", shape, datatype)
    tensor.set_data_from_numpy(np.zeros(shape, dtype))
    with pytest.raises(Exception, match="image") as caught:
        stock.infer(MODEL, [tensor])
    assert message in str(caught.value)
    assert caught.value.status() in {"413", "422"}  # type: ignore[attr-defined]


@pytest.mark.parametrize("key", ["instances", "inputs"])
def test_tensorflow_serving_accepts_every_form_of_body(
    client: httpx.Client, pixels: Pixels, files: list[bytes], served: Any, key: str
) -> None:
    encoded = [{"b64": base64.b64encode(data).decode()} for data in files]
    bodies: list[dict[str, Any]] = [
        {key: pixels.tolist()},
        {key: encoded, "signature_name": "serving_default"},
    ]
    if key == "instances":
        bodies.append({key: [{"image": image} for image in encoded], "signature_name": "serve"})
    else:
        bodies.append({key: {"image": pixels.tolist()}})
    for body in bodies:
        # curl -d sends this content type.
        answer = client.post(
            f"/v1/models/{MODEL}:predict",
            content=json.dumps(body),
            headers={"Content-Type": "application/x-www-form-urlencoded"},
        )
        assert answer.status_code == 200, answer.text
        rows = answer.json()["predictions" if key == "instances" else "outputs"]
        assert np.abs(np.array(rows) - served).max() < TOLERANCE


def test_tensorflow_serving_accepts_versions_and_labels(
    client: httpx.Client, pixels: Pixels, served: Any
) -> None:
    body = {"instances": pixels[:1].tolist()}
    for where in ("/versions/1", "/labels/champion"):
        answer = client.post(f"/v1/models/{MODEL}{where}:predict", json=body)
        assert np.abs(np.array(answer.json()["predictions"]) - served[:1]).max() < TOLERANCE
    status = client.get(f"/v1/models/{MODEL}").json()["model_version_status"]
    assert [(item["version"], item["state"]) for item in status] == [("1", "AVAILABLE")]
    assert client.get(f"/v1/models/{MODEL}/metadata").json()["model_spec"]["version"] == "1"
    missing = client.post("/v1/models/half:predict", json=body)
    assert (missing.status_code, missing.json().keys()) == (404, {"error"})


def test_tensorflow_serving_names_the_bad_image(client: httpx.Client, files: list[bytes]) -> None:
    encoded = [{"b64": base64.b64encode(data).decode()} for data in (files[0], files[1][:5000])]
    answer = client.post(f"/v1/models/{MODEL}:predict", json={"instances": encoded})
    assert answer.status_code == 422
    assert answer.json()["error"].startswith("Image 1: ")


def examples(running: Installation, photos: Path) -> list[tuple[str, str]]:
    """The examples of the how-to, in order, with the address of this installation."""
    text = (ROOT / "docs/how-to/standard-clients.md").read_text()
    text = text.replace("http://127.0.0.1:8000", running.url)
    text = text.replace("127.0.0.1:8000", running.url.removeprefix("http://"))
    text = text.replace("var/samples", str(photos))
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_the_examples_of_the_how_to_work(running: Installation, photos: Path) -> None:
    outputs: list[str] = []
    for language, code in examples(running, photos):
        if code.startswith("pip "):
            continue
        command = [sys.executable, "-c"] if language == "python" else ["bash", "-euc"]
        done = subprocess.run(
            [*command, code], check=False, capture_output=True, text=True, timeout=180
        )
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout)
    triton_class, by_hand, tensorflow = outputs
    assert int(triton_class) in {281, 282, 285}  # tabby, tiger cat, Egyptian cat
    assert json.loads(by_hand)["outputs"][0]["shape"] == [1, NETWORK.features]
    assert int(np.argmax(json.loads(tensorflow)["predictions"][0])) in {281, 282, 285}

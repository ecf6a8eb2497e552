"""The Open Inference Protocol over HTTP; the stock Triton client is in tests/flow."""

import gzip
import json
import socket
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import httpx
import numpy as np
import pytest

from contracts.errors import NoWorker, QueueFull
from contracts.queue.heartbeat import BatchStatistics, VersionStatistics
from contracts.queue.messages import Reply
from contracts.settings import Settings
from service.protocols.oip import LENGTH_HEADER
from service.protocols.statistics import ModelStatistics, statistics_of
from tests.service.parts import FakeServices
from tests.service.protocols.bases import serve_base

SHAPE = (227, 227, 3)
INFER = "/v2/models/squeezenet/infer"


def gray(*levels: int) -> Any:
    return np.stack([np.full(SHAPE, level, np.uint8) for level in levels])


def binary(*levels: int, **more: Any) -> tuple[bytes, dict[str, str]]:
    pixels = gray(*levels)
    tensor = {
        "name": "image",
        "shape": pixels.shape,
        "datatype": "UINT8",
        "parameters": {"binary_data_size": pixels.size},
    }
    head = json.dumps({"inputs": [tensor]} | more).encode()
    return head + pixels.tobytes(), {LENGTH_HEADER: str(len(head))}


def ask(client: httpx.Client, *levels: int, path: str = INFER, **more: Any) -> httpx.Response:
    body, headers = binary(*levels, **more)
    return client.post(path, content=body, headers=headers)


def test_server_metadata(client: httpx.Client) -> None:
    server = client.get("/v2").json()
    assert server["name"] == "opsin"
    assert "binary_tensor_data" in server["extensions"]
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}


def test_not_ready_states_the_reason(client: httpx.Client, fakes: FakeServices) -> None:
    fakes.database = False
    answer = client.get("/v2/health/ready")
    assert answer.status_code == 503
    assert answer.headers["Retry-After"]
    assert "OPSIN_DATABASE_URL" in answer.json()["error"]


@pytest.mark.parametrize("version", ["", "/versions/1", "/versions/champion"])
def test_model_metadata_lists_tensors(client: httpx.Client, version: str) -> None:
    model = client.get(f"/v2/models/squeezenet{version}").json()
    assert model["versions"] == ["1"]
    assert model["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, *SHAPE]}]
    assert [(one["name"], one["shape"]) for one in model["outputs"]] == [
        ("probabilities", [-1, 1000]),
        ("features", [-1, 512]),
    ]
    config = client.get(f"/v2/models/squeezenet{version}/config").json()
    assert (config["max_batch_size"], config["input"][0]["dims"]) == (4, [*SHAPE])
    ready = client.get(f"/v2/models/squeezenet{version}/ready")
    assert ready.json() == {"name": "squeezenet", "ready": True}


@pytest.mark.parametrize("what", ["", "/ready", "/config"])
@pytest.mark.parametrize(
    ("path", "status"),
    [("nobody", 404), ("squeezenet/versions/7", 404), ("squeezenet/versions/a b", 422)],
)
def test_unknown_models_and_versions_are_refused(
    client: httpx.Client, path: str, what: str, status: int
) -> None:
    answer = client.get(f"/v2/models/{path}{what}")
    assert answer.status_code == status
    assert answer.json().keys() == {"error"}


def test_repository_index_lists_versions(client: httpx.Client) -> None:
    everything = client.post("/v2/repository/index").json()
    assert {one["name"]: one["state"] for one in everything} == {
        "efficientnet_lite0": "UNAVAILABLE",
        "face_embedder": "UNAVAILABLE",
        "squeezenet": "READY",
        "vgg16": "UNAVAILABLE",
    }
    ready = client.post("/v2/repository/index", json={"ready": True}).json()
    assert ready == [{"name": "squeezenet", "version": "1", "state": "READY", "reason": ""}]
    assert client.post("/v2/repository/index", content=b"[]").status_code == 422
    assert client.post("/v2/repository/index", content=bytes(5000)).status_code == 413


@pytest.mark.parametrize("path", [INFER, INFER.replace("/infer", "/versions/1/infer")])
def test_several_images_form_a_batch(client: httpx.Client, path: str) -> None:
    answer = ask(client, 10, 20, path=path, id="seven")
    assert answer.status_code == 200, answer.text
    assert LENGTH_HEADER not in answer.headers
    body = answer.json()
    assert (body["model_name"], body["model_version"], body["id"]) == ("squeezenet", "1", "seven")
    (output,) = body["outputs"]
    assert (output["name"], output["datatype"]) == ("probabilities", "FP32")
    rows = np.reshape(output["data"], output["shape"])
    assert rows.shape == (2, 1000)
    assert rows.argmax(axis=1).tolist() == [10, 20]


def test_json_and_bytes_give_equal_outputs(client: httpx.Client) -> None:
    tensor = {"name": "image", "shape": [1, *SHAPE], "datatype": "UINT8"}
    flat = client.post(INFER, json={"inputs": [tensor | {"data": gray(9).ravel().tolist()}]})
    nested = client.post(INFER, json={"inputs": [tensor | {"data": gray(9).tolist()}]})
    assert flat.json() == nested.json() == ask(client, 9).json()


def test_both_outputs_with_one_as_bytes(client: httpx.Client) -> None:
    outputs = [{"name": "features", "parameters": {"binary_data": True}}, {"name": "probabilities"}]
    answer = ask(client, 30, outputs=outputs)
    assert answer.headers["Content-Type"] == "application/octet-stream"
    end = int(answer.headers[LENGTH_HEADER])
    features, probabilities = json.loads(answer.content[:end])["outputs"]
    assert features["parameters"] == {"binary_data_size": 512 * 4}
    assert np.frombuffer(answer.content[end:], "<f4").argmax() == 30
    assert np.argmax(probabilities["data"]) == 30


def test_classification_returns_labels(client: httpx.Client) -> None:
    outputs = [{"name": "probabilities", "parameters": {"classification": 2}}]
    (output,) = ask(client, 30, outputs=outputs).json()["outputs"]
    assert output["data"] == ["0.750000:30:class 30", "0.250000:31:class 31"]


def test_every_kind_of_model_is_the_same_at_every_address(
    client: httpx.Client, fakes: FakeServices
) -> None:
    """A base without a head: ready, listed, described, and answering with what it has."""
    serve_base(fakes.workers)
    assert client.get("/v2/models/vgg16/ready").json() == {"name": "vgg16", "ready": True}
    index = client.post("/v2/repository/index", json={"ready": True}).json()
    assert {"name": "vgg16", "version": "1", "state": "READY", "reason": ""} in index
    for path in ("", "/versions/1"):
        outputs = client.get(f"/v2/models/vgg16{path}").json()["outputs"]
        assert [one["name"] for one in outputs] == ["features"]
    answer = ask(client, 9, path="/v2/models/vgg16/infer")
    assert answer.status_code == 200, answer.text
    assert [one["name"] for one in answer.json()["outputs"]] == ["features"]
    refused = ask(client, 9, path="/v2/models/vgg16/infer", outputs=[{"name": "probabilities"}])
    assert refused.status_code == 422
    assert client.post("/v2/repository/models/vgg16/load").status_code == 200


def test_a_version_is_described_by_its_own_sizes(
    client: httpx.Client, fakes: FakeServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = fakes.workers.models()[1].model_copy(update={"name": "squeezenet", "classes": 3})
    monkeypatch.setattr(fakes.workers, "models", lambda: [info])
    champion = client.get("/v2/models/squeezenet").json()
    assert champion["outputs"][0]["shape"] == [-1, 3]
    first = client.get("/v2/models/squeezenet/versions/1").json()
    assert first["outputs"][0]["shape"] == [-1, 1000]


def test_versions_that_nothing_points_to_are_listed_as_such(
    client: httpx.Client, fakes: FakeServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = next(one for one in fakes.workers.models() if one.name == "squeezenet")
    changed = info.model_copy(update={"versions": [1, 2]})
    monkeypatch.setattr(fakes.workers, "models", lambda: [changed])
    states = client.post("/v2/repository/index").json()
    assert [(one["version"], one["state"]) for one in states] == [
        ("1", "READY"),
        ("2", "UNAVAILABLE"),
    ]
    assert "alias" in states[1]["reason"]


def test_loading_a_loaded_model_succeeds_and_unloading_is_refused(client: httpx.Client) -> None:
    load = "/v2/repository/models/{}/load"
    for body in (b"", b"{}", b'{"parameters": null}'):
        assert client.post(load.format("squeezenet"), content=body).status_code == 200
    unknown = client.post(load.format("nobody"))
    assert (unknown.status_code, unknown.json().keys()) == (404, {"error"})
    assert client.post(load.format("vgg16")).status_code in {404, 503}
    foreign = client.post(load.format("squeezenet"), json={"parameters": {"config": "{}"}})
    assert foreign.status_code == 400
    assert "/v1/trainings" in foreign.json()["error"]
    assert client.post(load.format("squeezenet"), content=b"[]").status_code == 422
    refused = client.post(
        "/v2/repository/models/squeezenet/unload", json={"parameters": {"unload_dependents": True}}
    )
    assert refused.status_code == 400
    assert "does not support unloading" in refused.json()["error"]
    assert "/v1/models/squeezenet/aliases" in refused.json()["error"]
    assert "model_repository" not in client.get("/v2").json()["extensions"]


@pytest.mark.parametrize("memory", ["systemsharedmemory", "cudasharedmemory"])
def test_shared_memory_is_refused_in_words(client: httpx.Client, memory: str) -> None:
    assert client.get(f"/v2/{memory}/status").json() == []
    for path in (f"/v2/{memory}/unregister", f"/v2/{memory}/region/r/unregister"):
        assert client.post(path).status_code == 200
    for answer in (
        client.get(f"/v2/{memory}/region/r/status"),
        client.post(f"/v2/{memory}/region/r/register", json={"key": "/r", "byte_size": 8}),
    ):
        assert answer.status_code == 400
        assert "does not support shared memory" in answer.json()["error"]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("trace/setting", "tracing"),
        ("models/squeezenet/trace/setting", "tracing"),
        ("logging", "log settings"),
    ],
)
def test_settings_of_the_server_are_refused_in_words(
    client: httpx.Client, path: str, words: str
) -> None:
    for answer in (client.get(f"/v2/{path}"), client.post(f"/v2/{path}", json={})):
        assert (answer.status_code, answer.json().keys()) == (400, {"error"})
        assert f"does not support {words}" in answer.json()["error"].replace(
            "reading or changing its ", ""
        )


def test_statistics_of_many_versions_are_read_once(
    client: httpx.Client, fakes: FakeServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of each version are looked for in its own reports only."""
    (worker,) = fakes.workers.workers
    counted = [
        VersionStatistics(model=name, version=1, images=1, failed=0, queue_seconds=0, last_at=1)
        for name in ("b", "a")
    ]
    held = worker.model_copy(update={"statistics": tuple(counted)})
    fakes.workers.workers = (held, held)
    read, sum_up = list[list[str]](), statistics_of

    def seen(name: str, version: int, reports: list[VersionStatistics]) -> ModelStatistics:
        read.append([one.model for one in reports])
        return sum_up(name, version, reports)

    monkeypatch.setattr("service.protocols.triton_routes.statistics_of", seen)
    found = client.get("/v2/models/stats").json()["model_stats"]
    assert [(one["name"], one["inference_count"]) for one in found] == [("a", 2), ("b", 2)]
    assert read == [["a", "a"], ["b", "b"]]


def test_statistics_are_the_sum_of_all_workers(client: httpx.Client, fakes: FakeServices) -> None:
    counted = VersionStatistics(
        model="squeezenet",
        version=1,
        images=9,
        failed=1,
        queue_seconds=0.5,
        last_at=1000.5,
        batches=(
            BatchStatistics(size=1, batches=1, compute_seconds=0.01),
            BatchStatistics(size=4, batches=2, compute_seconds=0.04),
        ),
    )
    (worker,) = fakes.workers.workers
    twice = [worker.model_copy(update={"id": one, "statistics": (counted,)}) for one in "ab"]
    fakes.workers.workers = tuple(twice)
    for path in ("", "/squeezenet", "/squeezenet/versions/1", "/squeezenet/versions/champion"):
        (stats,) = client.get(f"/v2/models{path}/stats").json()["model_stats"]
        assert (stats["name"], stats["version"]) == ("squeezenet", "1")
        assert (stats["inference_count"], stats["execution_count"]) == (18, 6)
        assert stats["last_inference"] == 1_000_500
        spent = stats["inference_stats"]
        assert spent["queue"] == {"count": 18, "ns": 10**9}
        assert spent["compute_infer"] == {"count": 18, "ns": 340_000_000}
        assert spent["success"] == {"count": 18, "ns": 1_340_000_000}
        assert spent["fail"]["count"] == 2
        assert [
            (one["batch_size"], one["compute_infer"]["count"]) for one in stats["batch_stats"]
        ] == [
            (1, 2),
            (4, 4),
        ]
    idle = client.get("/v2/models/vgg16/stats").json()["model_stats"]
    assert [(one["name"], one["inference_count"]) for one in idle] == [("vgg16", 0)]
    assert client.get("/v2/models/nobody/stats").status_code == 404
    assert client.get("/v2/models/squeezenet/versions/7/stats").status_code == 404


def test_unknown_model_is_refused_before_the_body_is_read(client: httpx.Client) -> None:
    answer = client.post("/v2/models/nobody/infer", content=b"{")
    assert (answer.status_code, answer.json().keys()) == (404, {"error"})


def test_full_queue_is_refused_before_the_body_is_read(
    client: httpx.Client, fakes: FakeServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise QueueFull("Full.", retry_after=7)

    monkeypatch.setattr(fakes.dispatcher, "require_room", full)
    answer = client.post(INFER, content=b"{")
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "7")
    assert answer.json() == {"error": "Full."}


def test_too_many_images_are_refused(client: httpx.Client) -> None:
    answer = ask(client, 1, 2, 3, 4, 5)
    assert answer.status_code == 422
    assert "1 to 4 images" in answer.json()["error"]


def test_oversized_body_is_refused(client: httpx.Client) -> None:
    answer = client.post("/v2/models/squeezenet/infer", content=bytes(10_000_000))
    assert (answer.status_code, answer.json().keys()) == (413, {"error"})


def test_compressed_body_is_read(client: httpx.Client) -> None:
    body, headers = binary(1)
    packed = gzip.compress(body)
    answer = client.post(INFER, content=packed, headers=headers | {"Content-Encoding": "gzip"})
    assert answer.status_code == 200
    for coding, status in (("gzip", 400), ("compress", 415)):
        wrong = client.post(INFER, content=body, headers=headers | {"Content-Encoding": coding})
        assert (wrong.status_code, wrong.json().keys()) == (status, {"error"})


def test_one_failed_image_fails_the_request(client: httpx.Client, fakes: FakeServices) -> None:
    good = Reply(bytes(16), 1, 2, 0, 0, vector=np.full(1000, 0.001, np.float32))
    fakes.dispatcher.answers = [good, NoWorker("Gone.", retry_after=2)]
    answer = ask(client, 1, 2)
    assert (answer.status_code, answer.json()) == (503, {"error": "Gone."})
    nothing = Reply(bytes(16), 1, 2, 0, 0, vector=np.full(1000, np.nan, np.float32))
    fakes.dispatcher.answers = [good, nothing]
    assert ask(client, 1, 2).status_code == 500


def test_deadline_and_timeout_parameter_both_apply(
    client: httpx.Client, fakes: FakeServices
) -> None:
    fakes.dispatcher.delay = 30
    body, headers = binary(1)
    began = time.monotonic()
    late = client.post(INFER, content=body, headers=headers | {"X-Timeout-Ms": "1500"})
    assert (late.status_code, late.json().keys()) == (504, {"error"})
    late = ask(client, 1, parameters={"timeout": 1_500_000})
    assert late.status_code == 504
    assert time.monotonic() - began < 20
    assert fakes.dispatcher.cancelled == 2
    wrong = client.post(INFER, content=body, headers=headers | {"X-Timeout-Ms": "0"})
    assert (wrong.status_code, wrong.json().keys()) == (422, {"error"})


def test_disconnect_withdraws_the_request(client: httpx.Client, fakes: FakeServices) -> None:
    fakes.dispatcher.delay = 60
    body, headers = binary(1)
    url = client.base_url
    with socket.create_connection((url.host, url.port or 80)) as raw:
        head = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        head += f"{LENGTH_HEADER}: {headers[LENGTH_HEADER]}\r\n\r\n"
        raw.sendall(head.encode() + body)
        until = time.monotonic() + 60
        while not fakes.dispatcher.asked and time.monotonic() < until:
            time.sleep(0.02)
    while fakes.dispatcher.cancelled == 0 and time.monotonic() < until:
        time.sleep(0.02)
    assert fakes.dispatcher.cancelled == 1


def test_unknown_v2_paths_have_plain_errors(client: httpx.Client) -> None:
    assert client.get("/v2/nowhere").json().keys() == {"error"}
    wrong_method = client.get(INFER)
    assert (wrong_method.status_code, wrong_method.json().keys()) == (405, {"error"})
    assert client.get("/v2nd").json()["code"] == "not_found"


def test_key_is_required_except_for_probes(
    served: Callable[[Settings, FakeServices], AbstractContextManager[str]], fakes: FakeServices
) -> None:
    settings = Settings(_env_file=None, api_key="a-key-of-sixteen-or-more")
    with served(settings, fakes) as url, httpx.Client(base_url=url) as locked:
        refused = locked.get("/v2/models/squeezenet")
        assert (refused.status_code, refused.json().keys()) == (401, {"error"})
        for path in ("/v2/health/live", "/v2/health/ready"):
            assert locked.get(path).status_code == 200

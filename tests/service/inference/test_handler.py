import asyncio
import socket
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest

from contracts.errors import InternalError, NoWorker, OpsinError, QueueFull
from contracts.queue.messages import Reply
from contracts.settings import MIB
from models.serving.outputs import Output, OutputReader
from tests.service.parts import SERVED, FakeServices, gray_png

PNG = {"Content-Type": "image/png"}


def test_one_image_is_classified(client: httpx.Client) -> None:
    answer = client.post("/v1/classify?top_k=2", content=gray_png(100), headers=PNG)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["model"], body["version"], body["batch_size"]) == ("squeezenet", 1, 4)
    assert body["results"] == [
        {
            "width": 40,
            "height": 30,
            "predictions": [
                {"index": 100, "id": "n00000100", "label": "class 100", "probability": 0.75},
                {"index": 101, "id": "n00000101", "label": "class 101", "probability": 0.25},
            ],
        }
    ]
    timing = body["timing_ms"]
    assert (timing["queue"], timing["compute"]) == (1.0, 10.0)
    assert timing["total"] >= timing["decode"] >= 0


def test_one_image_is_embedded(client: httpx.Client) -> None:
    answer = client.post("/v1/embed", content=gray_png(7), headers=PNG)
    vector = answer.json()["results"][0]["embedding"]
    assert len(vector) == 512
    assert vector[7] == 0.75


def test_each_image_of_a_batch_has_its_own_result(client: httpx.Client) -> None:
    files = [
        ("image", ("C:\\photos\\dark.png", gray_png(10), "image/png")),
        ("image", ("../../text.png", b"no image at all", "image/png")),
        ("image", ("huge.png", bytes(20_001), "image/png")),
        ("image", ("bright\x07.png", gray_png(200), "text/plain")),
    ]
    body = client.post("/v1/classify?top_k=1", files=files).json()
    assert [r.get("name") for r in body["results"]][:3] == ["dark.png", "text.png", "huge.png"]
    assert [r.get("error", {}).get("code") for r in body["results"]] == [
        None,
        "invalid_image",
        "payload_too_large",
        None,
    ]
    tops = [r["predictions"][0]["index"] for r in body["results"] if "predictions" in r]
    assert tops == [10, 200]


def test_batch_of_unreadable_images_is_answered(client: httpx.Client) -> None:
    files = [("image", ("a", b"x", "image/png")), ("image", ("b", b"y", "image/png"))]
    answer = client.post("/v1/classify", files=files)
    assert answer.status_code == 200
    assert answer.json()["batch_size"] == 0
    assert all(r["error"]["code"] == "invalid_image" for r in answer.json()["results"])


@pytest.mark.parametrize(("top_k", "images", "beside"), [(5, 4, False), (1000, 4, True)])
def test_large_responses_are_assembled_beside_the_event_loop(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch, top_k: int, images: int, beside: bool
) -> None:
    loops = []

    def read(self: OutputReader, vector: np.ndarray) -> Output:
        loops.append(asyncio._get_running_loop())
        return original(self, vector)

    original = OutputReader.read
    monkeypatch.setattr(OutputReader, "read", read)
    files = [("image", ("a.png", gray_png(10), "image/png"))] * images
    body = client.post(f"/v1/classify?top_k={top_k}", files=files).json()
    assert [len(one["predictions"]) for one in body["results"]] == [top_k] * images
    assert [loop is None for loop in loops] == [beside] * images


@pytest.mark.parametrize("prefer", ["", "respond-async"])
def test_busy_decoder_fails_the_whole_request(
    client: httpx.Client, fakes: FakeServices, prefer: str
) -> None:
    """No job may be promised, nor a batch answered, with pictures that are only late."""
    fakes.decoder.room = 1
    files = [("image", (name, gray_png(10), "image/png")) for name in "ab"]
    answer = client.post("/v1/classify", files=files, headers={"Prefer": prefer})
    assert (answer.status_code, answer.json()["code"]) == (429, "queue_full")
    assert answer.headers["Retry-After"] == "1"
    assert not fakes.jobs.submitted


@pytest.mark.parametrize("query", ["", "?model=squeezenet&model=pets"])
def test_a_busy_decoder_refuses_before_a_byte_is_read(
    client: httpx.Client, fakes: FakeServices, query: str
) -> None:
    fakes.decoder.room = 0
    fakes.workers.others["pets"] = SERVED
    address = urlsplit(str(client.base_url))
    with socket.create_connection((address.hostname, address.port), timeout=60) as wire:
        wire.sendall(
            f"POST /v1/classify{query} HTTP/1.1\r\nHost: localhost\r\n"
            "Content-Type: image/png\r\nContent-Length: 1000\r\n\r\n".encode()
        )
        answer = wire.recv(65536)
    assert answer.startswith(b"HTTP/1.1 429")
    assert b"wait to be decoded" in answer


def test_a_full_queue_refuses_before_an_image_is_decoded(
    client: httpx.Client, fakes: FakeServices
) -> None:
    """Decoding takes a fifth of the time of an answer, or more, and would be in vain."""
    fakes.dispatcher.places, room = 1, fakes.decoder.room
    files = [("image", (name, gray_png(10), "image/png")) for name in "ab"]
    answer = client.post("/v1/classify", files=files)
    assert (answer.status_code, answer.json()["code"]) == (429, "queue_full")
    assert fakes.decoder.room == room
    assert client.post("/v1/classify", content=gray_png(10), headers=PNG).status_code == 200
    assert fakes.dispatcher.places == 1, "the place is free again"


def test_an_image_that_waits_with_the_slow_ones_has_no_place_in_the_queue(
    client: httpx.Client, fakes: FakeServices
) -> None:
    """It would keep others out of a queue that is empty."""
    fakes.decoder.is_slow = True
    assert client.post("/v1/classify", content=gray_png(10), headers=PNG).status_code == 200
    assert fakes.dispatcher.given_back == 1
    fakes.decoder.is_slow = False
    assert client.post("/v1/classify", content=gray_png(10), headers=PNG).status_code == 200
    assert fakes.dispatcher.given_back == 1


def test_error_of_the_only_image_is_the_response(client: httpx.Client) -> None:
    answer = client.post("/v1/classify", files={"image": ("a.png", b"text", "image/png")})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_image")


def test_failed_reply_of_two_is_an_item_error(client: httpx.Client, fakes: FakeServices) -> None:
    good = Reply(bytes(16), 1, 2, 0, 0, vector=np.full(1000, 0.001, np.float32))
    fakes.dispatcher.answers = [good, NoWorker("Gone.")]
    files = [("image", ("a", gray_png(), "image/png")), ("image", ("b", gray_png(), "image/png"))]
    results = client.post("/v1/classify", files=files).json()["results"]
    assert [p["index"] for p in results[0]["predictions"]] == [0, 1, 2, 3, 4]
    assert results[1] == {"name": "b", "error": {"code": "no_worker", "detail": "Gone."}}


@pytest.mark.parametrize(
    ("reply", "status", "code"),
    [
        (NoWorker("Gone."), 503, "no_worker"),
        (InternalError("Broken."), 500, "internal_error"),
        (
            Reply(bytes(16), 1, 1, 0, 0, vector=np.full(1000, np.nan, np.float32)),
            500,
            "internal_error",
        ),
        (
            Reply(bytes(16), 1, 1, 0, 0, vector=np.zeros(3, np.float32)),
            500,
            "internal_error",
        ),
    ],
    ids=["error", "exception", "nan", "length"],
)
def test_failure_of_the_only_reply_is_the_response(
    client: httpx.Client, fakes: FakeServices, reply: Reply | OpsinError, status: int, code: str
) -> None:
    fakes.dispatcher.answers = [reply]
    answer = client.post("/v1/classify", content=gray_png(), headers=PNG)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


@pytest.mark.parametrize(
    ("error", "status", "retry"),
    [
        (QueueFull("Full; retry later.", retry_after=2.1), 429, "3"),
        (QueueFull("Full; retry later.", retry_after=0.01), 429, "1"),
        (NoWorker("Start one."), 503, "1"),
    ],
)
def test_temporary_errors_have_retry_after(
    client: httpx.Client, fakes: FakeServices, error: QueueFull, status: int, retry: str
) -> None:
    fakes.dispatcher.fails = error
    answer = client.post("/v1/classify", content=gray_png(), headers=PNG)
    assert (answer.status_code, answer.headers["Retry-After"]) == (status, retry)
    assert answer.json()["detail"] == error.detail


@pytest.mark.parametrize("query", ["top_k=0", "top_k=1001", "resize=stretch", "topk=3", "version="])
def test_invalid_parameter_is_named(client: httpx.Client, query: str) -> None:
    answer = client.post(f"/v1/classify?{query}", content=gray_png(), headers=PNG)
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_error")
    assert answer.json()["errors"][0]["loc"] == ["query", query.partition("=")[0]]


def test_unknown_model_is_refused_before_the_body_is_read(client: httpx.Client) -> None:
    answer = client.post("/v1/classify?model=nope", content=b"", headers=PNG)
    assert (answer.status_code, answer.json()["code"]) == (404, "model_not_found")


@pytest.mark.parametrize("prefer", ["respond-async", "wait=5, Respond-Async", "respond-async; x=1"])
def test_respond_async_returns_a_job(
    client: httpx.Client, fakes: FakeServices, prefer: str
) -> None:
    files = [("image", ("a", gray_png(), "image/png")), ("image", ("b", b"bad", "image/png"))]
    answer = client.post("/v1/embed", files=files, headers={"Prefer": prefer})
    assert answer.status_code == 202
    job = answer.json()
    assert (job["kind"], job["state"]) == ("embed", "queued")
    assert answer.headers["Location"] == f"/v1/jobs/{job['id']}"
    assert answer.headers["Preference-Applied"] == "respond-async"
    assert client.get(answer.headers["Location"]).json() == job
    assert fakes.jobs.asked[0]["prepared"] == (227, 227, "short_side", 256)
    good, bad = fakes.jobs.submitted[0]
    assert (good.name, good.width, good.height) == ("a", 40, 30)
    assert getattr(good.content, "shape", None) == (227, 227, 3)
    assert getattr(bad.content, "code", None) == "invalid_image"


def test_images_of_a_job_are_not_decoded_while_too_many_wait_to_be_stored(
    client: httpx.Client, fakes: FakeServices
) -> None:
    headers = PNG | {"Prefer": "respond-async"}
    with fakes.jobs.pixels.held("another client", MIB):
        answer = client.post("/v1/classify", content=gray_png(), headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (429, "queue_full")
        assert client.post("/v1/classify", content=gray_png(), headers=PNG).status_code == 200
    assert client.post("/v1/classify", content=gray_png(), headers=headers).status_code == 202


def test_other_preferences_are_ignored(client: httpx.Client) -> None:
    headers = PNG | {"Prefer": "handling=strict"}
    assert client.post("/v1/classify", content=gray_png(), headers=headers).status_code == 200


def test_job_of_one_unreadable_image_is_refused(client: httpx.Client, fakes: FakeServices) -> None:
    headers = PNG | {"Prefer": "respond-async"}
    answer = client.post("/v1/classify", content=b"bad", headers=headers)
    assert answer.status_code == 422
    assert not fakes.jobs.jobs


def test_same_key_and_request_return_the_same_job(client: httpx.Client) -> None:
    headers = PNG | {"Prefer": "respond-async", "Idempotency-Key": "k-1"}

    def ask(brightness: int, query: str = "") -> tuple[int, str]:
        answer = client.post("/v1/classify" + query, content=gray_png(brightness), headers=headers)
        return answer.status_code, answer.json().get("id") or answer.json()["code"]

    first = ask(1)
    assert first[0] == 202
    assert ask(1) == first
    assert ask(2) == (409, "idempotency_conflict")
    assert ask(1, "?top_k=3") == (409, "idempotency_conflict")

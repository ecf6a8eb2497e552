"""Asynchronous requests: their jobs, results and idempotency keys."""

import time
import uuid
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.flow.installation import Installation


def submit(client: httpx.Client, data: bytes, **headers: str) -> httpx.Response:
    return client.post(
        "/v1/classify",
        content=data,
        headers={"Content-Type": "image/png", "Prefer": "respond-async", **headers},
    )


def wait_for_job(client: httpx.Client, job_id: str, seconds: float = 60) -> dict[str, Any]:
    deadline = time.monotonic() + seconds
    while True:
        job: dict[str, Any] = client.get(f"/v1/jobs/{job_id}").json()
        if job["state"] in {"succeeded", "failed", "cancelled"}:
            return job
        assert time.monotonic() < deadline, job
        time.sleep(0.05)


@pytest.fixture
def cat(photos: Path) -> bytes:
    return (photos / "cat.png").read_bytes()


def test_a_job_has_the_result_of_the_request(client: httpx.Client, cat: bytes) -> None:
    accepted = submit(client, cat)
    assert accepted.status_code == 202
    job = accepted.json()
    assert accepted.headers["Location"] == f"/v1/jobs/{job['id']}"
    done = wait_for_job(client, job["id"])
    assert done["state"] == "succeeded", done
    assert done["attempt"] == 1
    assert done["progress"]["fraction"] == 1
    at_once = client.post("/v1/classify", content=cat, headers={"Content-Type": "image/png"})
    served = at_once.json()["results"][0]["predictions"]
    later = done["result"]["results"][0]["predictions"]
    assert [p["index"] for p in later] == [p["index"] for p in served]
    probabilities = [p["probability"] for p in served]
    assert [p["probability"] for p in later] == pytest.approx(probabilities, abs=1e-5)
    assert job["id"] in [item["id"] for item in client.get("/v1/jobs").json()["items"]]
    with client.stream("GET", f"/v1/jobs/{job['id']}/events") as events:
        stream = events.read().decode()
    assert "event: state" in stream
    assert "succeeded" in stream
    assert client.delete(f"/v1/jobs/{job['id']}").status_code == 204
    assert client.get(f"/v1/jobs/{job['id']}").status_code == 404


def test_a_repeated_idempotency_key_returns_the_same_job(
    client: httpx.Client, cat: bytes, photos: Path
) -> None:
    key = {"Idempotency-Key": uuid.uuid4().hex}
    first, second = submit(client, cat, **key).json(), submit(client, cat, **key).json()
    assert first["id"] == second["id"]
    other = submit(client, (photos / "coffee.png").read_bytes(), **key)
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_conflict")


def test_a_bad_image_is_refused_at_once(client: httpx.Client) -> None:
    refused = submit(client, b"not an image")
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_image")


def test_an_unknown_job_is_not_found(client: httpx.Client) -> None:
    for path in ("", "/events", "/artifacts/a.png"):
        answer = client.get(f"/v1/jobs/job_unknown{path}")
        assert (answer.status_code, answer.json()["code"]) == (404, "job_not_found")


def test_a_killed_worker_loses_no_job(start: Any, cat: bytes) -> None:
    running: Installation = start()
    with httpx.Client(base_url=running.url, timeout=60) as client:
        running.kill("worker")
        job_ids = [submit(client, cat).json().get("id") for _ in range(3)]
        running.run("worker", "worker")
        for job_id in filter(None, job_ids):
            assert wait_for_job(client, job_id, 90)["state"] == "succeeded"
        assert any(job_ids)

"""What the tests of trainings share: pictures that are learned in seconds, and one installation."""

import io
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from tests.flow.running import READY_SECONDS, Running
from tests.models.datasets.packing import zipped

FINISHED = {"succeeded", "failed", "cancelled"}
COLORS = {"blue": 2, "green": 1, "red": 0}


def picture(color: str, number: int, side: int = 32) -> bytes:
    """Noise that is more of one color than of the others, as PNG."""
    chance = np.random.default_rng([COLORS[color], number])
    pixels = chance.integers(0, 170, (side, side, 3))
    pixels[..., COLORS[color]] += 85
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def colors(count: int = 20) -> bytes:
    """A zip of three classes."""
    return zipped({f"{c}/{n}.png": picture(c, n) for c in COLORS for n in range(count)})


def installation(home: Path, weights: Path, store: Path | None, env: dict[str, str]) -> Running:
    """The API and a job worker; a worker for inference is the test's to start."""
    settings = {
        "OPSIN_MODELS": "squeezenet",
        "OPSIN_JOB_NICENESS": "0",
        "OPSIN_JOB_THREADS": "1",
        "OPSIN_WORKER_THREADS": "1",
        "OPSIN_MIN_FREE_DISK_BYTES": "0",
    }
    running = Running(home, weights, settings | env, store=store)
    running.valkey.start()
    return running


def begin(running: Running, name: str) -> None:
    """Start `api` or `jobs`, and wait for the API."""
    running.run(name, {"api": "serve", "jobs": "worker --jobs"}[name])
    running.await_that(lambda: running.get("/healthz").status_code == 200, READY_SECONDS)


def uploaded(client: httpx.Client, archive: bytes, **headers: str) -> httpx.Response:
    return client.post("/v1/datasets", files={"archive": ("c.zip", archive)}, headers=headers)


def train(client: httpx.Client, dataset_id: str, **fields: Any) -> dict[str, Any]:
    """The job of a training; with a network from scratch unless told otherwise."""
    least = {"dataset_id": dataset_id, "model": "colors", "network": "cnn_small"}
    answer = client.post("/v1/trainings", json=least | {"image_size": 28} | fields)
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    return job


def job(client: httpx.Client, job_id: str) -> dict[str, Any]:
    """A job now, asked for again while the API is away."""
    until = time.monotonic() + 60
    while True:
        try:
            answer = client.get(f"/v1/jobs/{job_id}")
            if answer.status_code == 200:
                told: dict[str, Any] = answer.json()
                return told
            assert answer.status_code == 503, answer.text
        except httpx.TransportError:
            pass
        assert time.monotonic() < until
        time.sleep(0.1)


def ended(client: httpx.Client, job_id: str, seconds: float = 120) -> dict[str, Any]:
    """A job when it has ended."""
    until = time.monotonic() + seconds
    while (told := job(client, job_id))["state"] not in FINISHED:
        assert time.monotonic() < until, told
        time.sleep(0.1)
    return told

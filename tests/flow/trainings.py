"""Shared by the tests of trainings: images that are learned in seconds, and an installation."""

import io
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from tests.flow.installation import READY_SECONDS, Installation
from tests.models.datasets.packing import zipped

TRAINING_SETTINGS = {
    "OPSIN_JOB_NICENESS": "0",
    "OPSIN_JOB_THREADS": "1",
    "OPSIN_MIN_FREE_DISK_BYTES": "0",
}
FINISHED = {"succeeded", "failed", "cancelled"}
COLORS = {"blue": 2, "green": 1, "red": 0}


def color_image(color: str, number: int, side: int = 32) -> bytes:
    """Noise that is more of one color than of the others, as PNG."""
    chance = np.random.default_rng([COLORS[color], number])
    pixels = chance.integers(0, 170, (side, side, 3))
    pixels[..., COLORS[color]] += 85
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def color_archive(count: int = 20) -> bytes:
    """A zip of three classes."""
    return zipped({f"{c}/{n}.png": color_image(c, n) for c in COLORS for n in range(count)})


def training_installation(
    home: Path, weights: Path, store: Path | None, env: dict[str, str]
) -> Installation:
    """An installation for trainings with Valkey running; the test starts the processes it needs."""
    settings = {"OPSIN_MODELS": "squeezenet", "OPSIN_WORKER_THREADS": "1"}
    running = Installation(home, weights, settings | TRAINING_SETTINGS | env, store=store)
    running.valkey.start()
    return running


def start_process(running: Installation, name: str) -> None:
    """Start `api` or `jobs`, and wait until the API answers."""
    running.run(name, {"api": "serve", "jobs": "worker --jobs"}[name])
    running.wait_until(lambda: running.get("/healthz").status_code == 200, READY_SECONDS)


def upload_dataset(client: httpx.Client, archive: bytes, **headers: str) -> httpx.Response:
    return client.post("/v1/datasets", files={"archive": ("c.zip", archive)}, headers=headers)


def submit_training(client: httpx.Client, dataset_id: str, **fields: Any) -> dict[str, Any]:
    """Submit a training and return its job; by default a small network from scratch."""
    required = {"dataset_id": dataset_id, "model": "colors", "network": "cnn_small"}
    answer = client.post("/v1/trainings", json=required | {"image_size": 28} | fields)
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    return job


def fetch_job(client: httpx.Client, job_id: str) -> dict[str, Any]:
    """The current state of a job; retries while the API is down."""
    until = time.monotonic() + 60
    while True:
        try:
            answer = client.get(f"/v1/jobs/{job_id}")
            if answer.status_code == 200:
                job: dict[str, Any] = answer.json()
                return job
            assert answer.status_code == 503, answer.text
        except httpx.TransportError:
            pass
        assert time.monotonic() < until
        time.sleep(0.1)


def wait_for_job(client: httpx.Client, job_id: str, seconds: float = 120) -> dict[str, Any]:
    """A job once it has finished."""
    until = time.monotonic() + seconds
    while (job := fetch_job(client, job_id))["state"] not in FINISHED:
        assert time.monotonic() < until, job
        time.sleep(0.1)
    return job

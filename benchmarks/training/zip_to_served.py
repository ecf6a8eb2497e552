"""From a zip of images to the first response of the trained model: the time of each step.

    opsin up &
    python -m benchmarks.training.zip_to_served FOLDER --training '{"seed": 8}'

FOLDER holds class folders, or `train/ validation/ test/` with class folders inside. The steps of
the training (`seconds` of its result) are listed between those around it: upload, admission of
every file, the time in the queue, the start of a process with TensorFlow and, at the end, the
loading of the new champion by a worker.
"""

import argparse
import json
import tempfile
import time
import uuid
import zipfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

FINISHED = {"succeeded", "failed", "cancelled"}
_POLL_SECONDS = 0.1
_DEADLINE = 1800.0
_BOUNDARY = uuid.uuid4().hex
_CHUNK = 1 << 18


def pack(folder: Path, target: Path) -> None:
    """Zip a folder without compression, as images are compressed already."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder))


def upload(client: httpx.Client, archive: Path) -> tuple[dict[str, Any], float, float]:
    """Upload; returns the dataset, the seconds of sending and those until the response."""
    began = time.monotonic()
    sent = began

    def body() -> Iterator[bytes]:
        nonlocal sent
        head = 'Content-Disposition: form-data; name="archive"; filename="a.zip"'
        yield f"--{_BOUNDARY}\r\n{head}\r\n\r\n".encode()
        with archive.open("rb") as file:
            while chunk := file.read(_CHUNK):
                yield chunk
        yield f"\r\n--{_BOUNDARY}--\r\n".encode()
        sent = time.monotonic()

    headers = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}
    answer = client.post("/v1/datasets", content=body(), headers=headers)
    answer.raise_for_status()
    return answer.json(), sent - began, time.monotonic() - sent


def train(client: httpx.Client, request: dict[str, Any]) -> dict[str, Any]:
    """Run a training and return its finished job."""
    answer = client.post("/v1/trainings", json=request)
    if answer.status_code != 202:
        raise SystemExit(answer.text)
    job: dict[str, Any] = answer.json()
    until = time.monotonic() + _DEADLINE
    while job["state"] not in FINISHED and time.monotonic() < until:
        time.sleep(_POLL_SECONDS)
        job = client.get(f"/v1/jobs/{job['id']}").json()
    if job["state"] != "succeeded":
        raise SystemExit(json.dumps(job["error"] or job["state"]))
    return job


def wait_until_served(client: httpx.Client, model: str, version: int, image: Path) -> float:
    """Seconds until the version responds."""
    began = time.monotonic()
    while time.monotonic() - began < _DEADLINE:
        with image.open("rb") as file:
            answer = client.post(f"/v1/classify?model={model}", files={"image": file})
        if answer.status_code == 200 and answer.json()["version"] == version:
            return time.monotonic() - began
        time.sleep(_POLL_SECONDS)
    raise SystemExit(answer.text)


def steps(job: dict[str, Any]) -> dict[str, float]:
    """Seconds of each step of a finished job."""
    created, started, finished = (
        datetime.fromisoformat(job[name]) for name in ("created_at", "started_at", "finished_at")
    )
    seconds: dict[str, float] = job["result"]["seconds"]
    rest = (finished - started).total_seconds() - sum(seconds.values())
    return {"queue": (started - created).total_seconds(), "start": rest, **seconds}


def main() -> None:
    """Print the time of each step, and the accuracy."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--model", default="zip-to-served")
    parser.add_argument("--training", default="{}", help="more fields of the training, as JSON")
    arguments = parser.parse_args()
    body = {"model": arguments.model, "network": "vgg16", "promote": "always"}
    image = next(file for file in sorted(arguments.folder.rglob("*")) if file.is_file())
    with (
        tempfile.TemporaryDirectory() as scratch,
        httpx.Client(base_url=arguments.url, timeout=600, trust_env=False) as client,
    ):
        archive = Path(scratch) / "a.zip"
        pack(arguments.folder, archive)
        dataset, sending, admission = upload(client, archive)
        job = train(client, body | {"dataset_id": dataset["id"]} | json.loads(arguments.training))
        result = job["result"]
        loading = wait_until_served(client, result["model"], result["version"], image)
    split = {"upload": sending, "admission": admission, **steps(job), "first response": loading}
    table = Table("step", "seconds", title=f"{sum(dataset['classes'].values())} images")
    for name, seconds in {**split, "all": sum(split.values())}.items():
        table.add_row(name, f"{seconds:.1f}")
    Console().print(table)
    for name, metrics in result["metrics"].items():
        print(f"{name}: {metrics['accuracy']:.4f} of {metrics['pictures']} images")


if __name__ == "__main__":
    main()

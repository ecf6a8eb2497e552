"""From a zip of pictures to the first served answer: where the time goes, seen by a client.

    opsin up &
    python -m benchmarks.zip_to_served FOLDER --url http://127.0.0.1:8000 --training '{"seed": 8}'

FOLDER holds class folders, or `train/ validation/ test/` with class folders inside. What the
training says of itself (`seconds` of its result) stands between the steps around it: the upload,
the admission of every file, the wait in the queue, the start of a process of its own with
TensorFlow in it, and at the end the worker that loads the new champion.
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
_LOOK_SECONDS = 0.1
_DEADLINE = 1800.0
_BOUNDARY = uuid.uuid4().hex
_CHUNK = 1 << 18


def packed(folder: Path, target: Path) -> None:
    """A zip of a folder's files; pictures are packed already, so they are only stored."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder))


def uploaded(client: httpx.Client, archive: Path) -> tuple[dict[str, Any], float, float]:
    """The dataset, the seconds until the last byte had left, and those until it was answered."""
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

    kind = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}
    answer = client.post("/v1/datasets", content=body(), headers=kind)
    answer.raise_for_status()
    return answer.json(), sent - began, time.monotonic() - sent


def trained(client: httpx.Client, asked: dict[str, Any]) -> dict[str, Any]:
    """The job of a training, when it has ended."""
    answer = client.post("/v1/trainings", json=asked)
    if answer.status_code != 202:
        raise SystemExit(answer.text)
    job: dict[str, Any] = answer.json()
    until = time.monotonic() + _DEADLINE
    while job["state"] not in FINISHED and time.monotonic() < until:
        time.sleep(_LOOK_SECONDS)
        job = client.get(f"/v1/jobs/{job['id']}").json()
    if job["state"] != "succeeded":
        raise SystemExit(json.dumps(job["error"] or job["state"]))
    return job


def served(client: httpx.Client, model: str, version: int, picture: Path) -> float:
    """Seconds until the version answers."""
    began = time.monotonic()
    while time.monotonic() - began < _DEADLINE:
        with picture.open("rb") as file:
            answer = client.post(f"/v1/classify?model={model}", files={"image": file})
        if answer.status_code == 200 and answer.json()["version"] == version:
            return time.monotonic() - began
        time.sleep(_LOOK_SECONDS)
    raise SystemExit(answer.text)


def steps(job: dict[str, Any]) -> dict[str, float]:
    """Seconds of each step of a job that has ended."""
    created, started, finished = (
        datetime.fromisoformat(job[name]) for name in ("created_at", "started_at", "finished_at")
    )
    told: dict[str, float] = job["result"]["seconds"]
    rest = (finished - started).total_seconds() - sum(told.values())
    return {"queue": (started - created).total_seconds(), "start": rest, **told}


def main() -> None:
    """Print the split, and the accuracy that was reached."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--model", default="zip-to-served")
    parser.add_argument("--training", default="{}", help="More fields of the training, JSON.")
    asked = parser.parse_args()
    body = {"model": asked.model, "network": "vgg16", "promote": "always"}
    picture = next(file for file in sorted(asked.folder.rglob("*")) if file.is_file())
    with (
        tempfile.TemporaryDirectory() as scratch,
        httpx.Client(base_url=asked.url, timeout=600, trust_env=False) as client,
    ):
        archive = Path(scratch) / "a.zip"
        packed(asked.folder, archive)
        dataset, upload, admission = uploaded(client, archive)
        job = trained(client, body | {"dataset_id": dataset["id"]} | json.loads(asked.training))
        result = job["result"]
        loading = served(client, result["model"], result["version"], picture)
    split = {"upload": upload, "admission": admission, **steps(job), "first answer": loading}
    table = Table("step", "seconds", title=f"{sum(dataset['classes'].values())} pictures")
    for name, seconds in {**split, "all": sum(split.values())}.items():
        table.add_row(name, f"{seconds:.1f}")
    Console().print(table)
    for name, one in result["metrics"].items():
        print(f"{name}: {one['accuracy']:.4f} of {one['pictures']} pictures")


if __name__ == "__main__":
    main()

"""A service without workers with something on every page, named as an attacker would.

Its answers are those of the real API; what a job has made is written here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from redis.asyncio import Redis

from contracts.inference.registry import LaneInfo
from contracts.jobs import Artifact, JobError, Progress
from contracts.settings import Settings
from database.engine import open_engine
from database.tables import Record
from tests.models.datasets.packing import photo, zipped
from tests.service.conftest import listening
from tests.service.parts import NOW, FakeServices, FakeWorkers, datasets_in, face_services_in

SCRIPT = "<script>alert(1)<_script>"
IMAGE = "<img src=x onerror=alert(1)>"
TURNED = "\u202egnp.exe\u202c"
LONG = "a" * 100
HOSTILE = (SCRIPT, IMAGE, TURNED, LONG)
LONGEST_FILE = "f" * 251 + ".png"
TRAINING, RUNNING, FAILED, CALIBRATION = "job_1", "job_2", "job_3", "job_4"


class Workers(FakeWorkers):
    """One for images, one for jobs; a model is missing its weights, and images wait."""

    def __init__(self) -> None:
        super().__init__()
        self.job_workers = (
            self.workers[0].model_copy(update={"id": "j1", "pid": 2, "models": ()}),
        )

    def queues(self) -> list[LaneInfo]:
        return [LaneInfo(name="lane:squeezenet:1:classify", depth=5, drain_rate=None)]

    def models(self) -> list[Any]:
        missing = "`opsin weights pull vgg16` fetches the weights."
        return [
            one.model_copy(update={"reason": missing}) if one.name == "vgg16" else one
            for one in super().models()
        ]


def empty_services(folder: Path, redis_url: str) -> FakeServices:
    """Real tables of datasets, people and keys, with nothing in them."""
    folder.mkdir(exist_ok=True)
    engine = open_engine(f"sqlite:///{folder / 'opsin.db'}")
    Record.metadata.create_all(engine)
    engine.dispose()
    people = folder / "faces"
    people.mkdir(exist_ok=True)
    fakes = FakeServices(
        datasets=datasets_in(folder),
        faces=face_services_in(people, redis_url=redis_url, tables=True),
        redis=Redis.from_url(redis_url, socket_timeout=5),
    )
    fakes.with_keys()
    return fakes


@contextmanager
def filled_service(folder: Path, redis_url: str) -> Iterator[tuple[str, FakeServices]]:
    """The address of a service with something on every page."""
    fakes = empty_services(folder, redis_url)
    fakes.workers = Workers()
    with listening(Settings(_env_file=None, home=folder), fakes) as url:
        with httpx.Client(base_url=url, timeout=60) as client:
            for name in HOSTILE:
                client.post("/v1/faces/subjects", json={"name": name})
            files = {"archive": ("names.zip", archive())}
            made = client.post("/v1/datasets", files=files, data={"name": SCRIPT}).json()
            query = {"status": "admitted", "label": SCRIPT}
            shown = client.get(f"/v1/datasets/{made['id']}/files", params=query).json()["items"][0]
        fill_jobs(fakes, made, shown["sha256"])
        yield url, fakes


def archive() -> bytes:
    """Class folders; files with the longest name, of no class, no image, and a copy."""
    files = {
        f"{label}/{number or LONGEST_FILE[:-4]}.png": photo(10 * place + number)
        for place, label in enumerate((SCRIPT, IMAGE, LONG))
        for number in range(8)
    }
    odd = {f"{TURNED}.png": photo(91), f"{SCRIPT}/copy.png": photo(1), f"{IMAGE}/{SCRIPT}": b"no"}
    return zipped(files | odd)


def fill_jobs(fakes: FakeServices, dataset: dict[str, Any], sha256: str) -> None:
    """Jobs of several kinds and states; the training mistook the image with that digest."""
    half = Progress(fraction=0.5, phase="head", eta_seconds=125)
    url = f"/v1/jobs/{TRAINING}/artifacts/predictions.csv"
    table = Artifact(name="predictions.csv", media_type="text/csv", size=10, url=url)
    row = f'"{LONGEST_FILE}",{sha256},test,"{SCRIPT}","{IMAGE}",0.9,0.05,0'
    head = "name,sha256,split,label,predicted,probability,label_probability,correct"
    fakes.files.store_artifact(TRAINING, table.name, f"{head}\n{row}\n".encode())
    fakes.jobs.put(
        TRAINING,
        kind="training",
        state="succeeded",
        about="pets",
        started_at=NOW,
        finished_at=NOW,
        result=training_result(dataset, sha256),
        metrics=[{"epoch": n, "loss": 1 / n, "accuracy": 1 - 0.5 / n} for n in (1, 2, 3)],
        artifacts=[table],
    )
    fakes.jobs.put(RUNNING, kind="style_transfer", state="running", progress=half, started_at=NOW)
    error = JobError(code="internal_error", detail=f"It broke: {IMAGE}")
    fakes.jobs.put(FAILED, kind="dataset_import", state="failed", about=SCRIPT, error=error)
    fakes.jobs.put(CALIBRATION, kind="calibration", state="succeeded", result=calibration_result())


def training_result(dataset: dict[str, Any], sha256: str) -> dict[str, Any]:
    labels = [SCRIPT, IMAGE, LONG]
    return {
        "model": "pets",
        "version": 1,
        "network": "cnn_small",
        "held_out": "test",
        "promoted": True,
        "promotion": {"reason": f"better than {IMAGE}"},
        "metrics": {
            "test": {"accuracy": 0.9, "macro_f1": 0.9, "calibration_error": 0.1, "pictures": 6}
        },
        "confusion_matrix": {"labels": labels, "counts": [[2, 1, 0], [0, 2, 0], [0, 0, 1]]},
        "most_wrong": [
            {"name": LONGEST_FILE, "sha256": sha256, "label": SCRIPT, "predicted": IMAGE}
            | {"probability": 0.9, "label_probability": 0.05}
        ],
        "per_class": [
            {"label": label, "precision": 0.9, "recall": None, "f1": 0.9, "support": 2}
            for label in labels
        ],
        "provenance": {"dataset_digest": dataset["digest"], "spec": {"dataset_id": dataset["id"]}},
    }


def calibration_result() -> dict[str, Any]:
    curve = [(0.8, 1e-5, 0.3), (0.7, 1e-4, 0.1), (0.6, 1e-2, 0.02), (0.5, 0.3, 0.001)]
    return {
        "threshold": 0.7,
        "fmr": {"rate": 1e-4},
        "fnmr": {"rate": 0.1},
        "people": 12,
        "curve": [{"threshold": t, "fmr": a, "fnmr": b} for t, a, b in curve],
    }

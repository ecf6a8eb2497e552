"""A home with something of everything in it, made by the real parts, and what can be read of it."""

import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from contracts.jobs import Job
from contracts.settings import Settings
from database.datasets import DatasetRows
from database.engine import open_engine
from database.jobs.files import JobFiles
from database.jobs.jobs import Jobs
from database.jobs.leases import Leases
from models.datasets.store import DatasetStore
from models.store.store import Store
from tests.models.datasets.packing import photo, written
from tests.models.drafts import DRAFT, write_files
from tests.tables import make_tables

DATASET = "ds_pets"


def now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Furnished:
    """A home and the ids of what is in it."""

    settings: Settings
    finished: str
    waiting: str

    def jobs(self) -> dict[str, Job]:
        """The jobs as the API would show them."""
        engine = open_engine(self.settings.database)
        jobs = Jobs(engine, now)
        found = {one: jobs.get(one) for one in (self.finished, self.waiting)}
        engine.dispose()
        return found


def furnish(home: Path, **settings: Any) -> Furnished:
    """Two versions, a dataset, a finished job with a file, and one that waits with its input."""
    told = Settings(home=home, min_free_disk_bytes=0, **settings)
    make_tables(told.database)
    engine = open_engine(told.database)
    store, library = Store(told.store_home), DatasetStore.of(told)
    for _ in range(2):
        publish(store)
    store.promote("pets", 2)
    pictures = written(home / "pictures", {f"{k}/{n}.png": photo(n + 9 * (k == "b"))
                                           for k in "ab" for n in range(6)})  # fmt: skip
    listing = library.create("pets", pictures, dataset_id=DATASET)
    shutil.rmtree(pictures)
    DatasetRows(engine, now).put(listing)
    files = JobFiles.of(told)
    jobs, leases = Jobs(engine, now, files), Leases(engine, now)
    finished = jobs.create("filters", {"layer": "conv1"}, limit=9).job.id
    lease = leases.claim(finished, "worker", 60)
    assert lease is not None
    files.store_artifact(finished, "filters.png", b"picture")
    leases.artifact(lease, "filters.png", "image/png", 7)
    leases.succeed(lease, {"layer": "conv1"})
    waiting = jobs.create("heatmap", {"model": "pets"}, limit=9, job_id="job_waits").job.id
    files.store_inputs(waiting, {"0": b"photo"})
    for name, content in (("weights/a.npz", b"fetched"), ("tensorboard/job_1/events", b"log"),
                          ("trainings/job_2/curves.png", b"png"), ("faces/f1", b"sealed"),
                          ("secrets/faces.keys", b"key")):  # fmt: skip
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (home / "secrets" / "faces.keys").chmod(0o600)
    engine.dispose()
    return Furnished(told, finished, waiting)


def publish(store: Store, model: str = "pets") -> int:
    with store.staging() as folder:
        write_files(folder)
        return store.publish(model, folder, DRAFT)


def tree(root: Path) -> dict[str, bytes]:
    """Every file below a folder, drafts and locks left out, and its content."""
    return {
        inside: path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(root).parts)
        for inside in [path.relative_to(root).as_posix()]
        if not inside.startswith(("opsin.db", "run/", "logs/", "installation"))
    }

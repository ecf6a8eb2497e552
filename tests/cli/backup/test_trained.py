"""A model that was really trained answers after its home was destroyed as it did before."""

import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from cli.commands.backup import restore_backup, write_backup
from contracts.settings import Settings
from contracts.training.training_result import TrainingResult
from database.datasets import DatasetRows
from database.engine import open_engine
from database.jobs.files import JobFiles
from database.jobs.jobs import Jobs
from database.jobs.leases import Leases
from models.datasets.store import DatasetStore
from models.serving.predictor import VersionPredictor
from models.store.store import Store
from models.training.run import run
from tests.cli.backup.furnished import now
from tests.models import keras_warnings
from tests.ports import free_port
from tests.tables import make_tables
from workers.jobs.context import LeasedWork

pytestmark = keras_warnings.ignored

COLORS = {"blue": (40, 60, 200), "red": (200, 50, 40)}
REQUEST = {
    "dataset_id": "ds_colors",
    "model": "colors",
    "network": "cnn_small",
    "image_size": 16,
    "epochs": {"scratch": 1},
}


def images(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    for name, color in COLORS.items():
        (folder / name).mkdir(parents=True)
        for number in range(10):
            pixels = np.clip(rng.normal(color, 40, (16, 16, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def trained(settings: Settings, source: Path) -> str:
    """The id of a training's job, done as a job worker does it."""
    make_tables(settings.database)
    engine = open_engine(settings.database)
    listing = DatasetStore.of(settings).create("colors", source, dataset_id="ds_colors")
    DatasetRows(engine, now).put(listing)
    files = JobFiles.of(settings)
    leases = Leases(engine, now)
    job_id = Jobs(engine, now, files).create("training", REQUEST, limit=1).job.id
    lease = leases.claim(job_id, "worker", 600)
    assert lease is not None
    work = LeasedWork(lease, leases, files, max_hours=1)
    work.start()
    with files.locked(job_id, 1):
        result = run(work, settings)
        work.close()
        assert leases.succeed(lease, result)
    files.end_work(job_id)
    engine.dispose()
    return job_id


def answers(settings: Settings) -> np.ndarray:
    store = Store(settings.store_home)
    version = store.resolve("colors")
    assert store.verify("colors", version) == []
    predictor = VersionPredictor(store.path("colors", version), max_batch_size=2)
    rng = np.random.default_rng(1)
    return predictor.run("classify", rng.integers(0, 256, (2, 16, 16, 3)).astype(np.uint8))


def test_a_trained_model_its_job_and_its_charts_are_restored(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home", port=free_port(), min_free_disk_bytes=0)
    job_id = trained(settings, images(tmp_path / "pictures"))
    engine = open_engine(settings.database)
    before, job = answers(settings), Jobs(engine, now).get(job_id)
    engine.dispose()
    assert job.state == "succeeded"
    write_backup(settings, tmp_path / "b.tar", secrets=False)
    shutil.rmtree(settings.home)
    restore_backup(settings, tmp_path / "b.tar", force=False)
    np.testing.assert_array_equal(answers(settings), before)
    engine = open_engine(settings.database)
    files = JobFiles.of(settings)
    assert Jobs(engine, now, files).get(job_id) == job
    TrainingResult.model_validate(job.result)
    for artifact in job.artifacts:
        with open(files.open_artifact(job_id, artifact.name), "rb") as file:  # noqa: PTH123
            assert len(file.read()) == artifact.size
    assert {one.name for one in job.artifacts} >= {"curves.png", "confusion_matrix.png"}
    assert list((settings.event_logs_home / job_id).rglob("events.*"))
    assert DatasetRows(engine, now).get("ds_colors").classes == dict.fromkeys(COLORS, 10)
    engine.dispose()

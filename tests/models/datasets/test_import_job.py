"""A job imports a dataset once, however often it is attempted."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from contracts.jobs import Progress
from contracts.settings import Settings
from contracts.work import WorkStoppedError
from models.datasets.import_job import dataset_id_of, run
from models.datasets.store import DatasetStore
from tests.models.datasets.packing import on_disk, tree, zipped


@dataclass
class FakeWork:
    """A `contracts.work.Work` that is cancelled at a given file."""

    folder: Path
    request: dict[str, Any] = field(default_factory=lambda: {"name": "pets", "test": 0.5})
    job_id: str = "job_1"
    attempt: int = 1
    cancel_after: int = 1000
    reported: list[Progress] = field(default_factory=list)
    checks: int = 0

    def progress(self, progress: Progress) -> None:
        self.reported.append(progress)

    def metrics(self, row: dict[str, Any]) -> None: ...

    def artifact(self, name: str, media_type: str, content: bytes) -> None: ...

    def check(self) -> None:
        self.checks += 1
        if self.checks > self.cancel_after:
            raise WorkStoppedError


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(_env_file=None, home=tmp_path / "home", min_free_disk_bytes=0)


def test_dataset_is_imported_once(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(zipped(tree({"cat": 6, "dog": 6})))
    first = FakeWork(tmp_path)
    made = run(first, settings)
    assert made["id"] == dataset_id_of("job_1")
    assert made["splits"] == {"train": 4, "validation": 2, "test": 6}
    assert first.reported[0].phase == "admission"
    assert run(FakeWork(tmp_path, attempt=2), settings) == made
    assert DatasetStore.of(settings).ids() == [made["id"]]


def test_cancelled_import_leaves_nothing(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(zipped(tree({"cat": 6, "dog": 6})))
    with pytest.raises(WorkStoppedError):
        run(FakeWork(tmp_path, cancel_after=5), settings)
    assert on_disk(settings.datasets_home) == {".staging"}

"""Frames of real videos become images of a dataset, all of them or none, and only once."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from contracts.errors import (
    Conflict,
    DatasetNotFound,
    InvalidVideo,
    PayloadTooLarge,
    Unavailable,
)
from contracts.jobs import Progress
from contracts.queue.messages import Pixels
from contracts.settings import Settings
from contracts.training.datasets import VIDEO, VideoFrames
from contracts.work import WorkStoppedError
from database.datasets import DatasetRows
from database.engine import open_engine
from database.jobs.jobs import Jobs
from models.datasets.store import DatasetStore
from models.weights.catalog import Weights, WeightsMissing
from tests.models.datasets.stored import image_path
from tests.models.faces.rendering import write_video
from tests.tables import make_tables
from workers.jobs import dataset_video
from workers.jobs.dataset_video import run

FPS, SECONDS = 10, 3
TAKEN = 7  # twice a second, the last frame included


@dataclass
class FakeWork:
    """A `contracts.work.Work` that is cancelled at a given check."""

    folder: Path
    request: dict[str, Any]
    job_id: str = "job_1"
    attempt: int = 1
    cancel_after: int = 10_000
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


@pytest.fixture
def rows(settings: Settings) -> Iterator[DatasetRows]:
    make_tables(settings.database)
    engine = open_engine(settings.database)
    yield DatasetRows(engine, lambda: datetime.now(UTC))
    engine.dispose()


@pytest.fixture
def dataset(settings: Settings, rows: DatasetRows) -> str:
    listing = DatasetStore.of(settings).create("faces", None)
    rows.put(listing)
    return listing.info.id


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A bar that moves to the right, 160 x 120 pixels."""

    def frames() -> Iterator[Pixels]:
        for number in range(FPS * SECONDS):
            pixels = np.full((120, 160, 3), 60, np.uint8)
            pixels[:, 5 * number : 5 * number + 10] = (200, 30, 30)
            yield pixels

    return write_video(tmp_path_factory.mktemp("video") / "bar.mp4", frames(), FPS)


def work_on(folder: Path, video: bytes, dataset: str, **how: Any) -> FakeWork:
    folder.mkdir(exist_ok=True)
    (folder / VIDEO).write_bytes(video)
    frames = VideoFrames(target=dataset, label="ada", name="bar", **how)
    return FakeWork(folder, frames.model_dump(mode="json"), job_id=folder.name)


def test_frames_are_added_at_the_rate_that_was_asked_for(
    tmp_path: Path, settings: Settings, rows: DatasetRows, dataset: str, video: bytes
) -> None:
    work = work_on(tmp_path / "job", video, dataset, rate=2)
    result = run(work, settings)
    assert result["added"] == result["frames"]["read"] == TAKEN
    assert result["dataset"]["classes"] == {"ada": TAKEN}
    listing = DatasetStore.of(settings).listing(dataset)
    assert rows.get(dataset) == listing.info
    assert {(file.width, file.height) for file in listing.files} == {(160, 120)}
    assert listing.files[0].path.startswith("ada/bar-0")
    assert work.reported[-1].phase == "frames"
    assert run(work, settings) == result, "another attempt of the same job"
    assert DatasetStore.of(settings).listing(dataset) == listing


def test_at_most_so_many_and_a_part_of_each(
    tmp_path: Path, settings: Settings, rows: DatasetRows, dataset: str, video: bytes
) -> None:
    how = {"rate": 10, "max_frames": 4, "region": "20,10,64,48", "split": "test"}
    result = run(work_on(tmp_path / "job", video, dataset, **how), settings)
    listing = DatasetStore.of(settings).listing(dataset)
    assert {(file.width, file.height) for file in listing.files} == {(64, 48)}
    assert {file.given_split for file in listing.files} == {"test"}
    assert len(listing.files) == 4
    assert result["frames"]["read"] == 4
    with pytest.raises(InvalidVideo, match="160 x 120"):
        run(work_on(tmp_path / "other", video, dataset, region="100,0,100,50"), settings)


def test_neighboring_frames_are_in_one_split(
    tmp_path: Path, settings: Settings, rows: DatasetRows, dataset: str, video: bytes
) -> None:
    result = run(work_on(tmp_path / "job", video, dataset, rate=10), settings)
    files = DatasetStore.of(settings).listing(dataset).files
    splits = [file.split for file in files]
    assert splits == ["train"] * 18 + ["validation"] * 5 + ["test"] * 5
    assert result["frames"] == {"read": 30, "left_out": {"between_splits": 2}}
    assert result["added"] == 28
    assert not result["dataset"]["warnings"]


def test_validation_is_the_end_of_a_video_that_is_sent_for_training(
    tmp_path: Path, settings: Settings, rows: DatasetRows, dataset: str, video: bytes
) -> None:
    result = run(work_on(tmp_path / "job", video, dataset, rate=10, split="train"), settings)
    files = DatasetStore.of(settings).listing(dataset).files
    assert [file.split for file in files] == ["train"] * 23 + ["validation"] * 4
    assert {file.given_split for file in files} == {"train"}
    assert result["frames"] == {"read": 30, "left_out": {"between_splits": 3}}


def test_a_part_of_a_very_wide_video_is_in_its_own_pixels(
    tmp_path: Path, settings: Settings, dataset: str
) -> None:
    pixels = np.full((32, 16384, 3), 60, np.uint8)
    pixels[:, 12000:12064] = 200
    video = write_video(tmp_path / "wide.avi", iter([pixels] * FPS), FPS)
    work = work_on(tmp_path / "job", video, dataset, max_frames=1, region="12000,0,64,32")
    assert run(work, settings)["added"] == 1
    store = DatasetStore.of(settings)
    (file,) = store.listing(dataset).files
    assert (file.width, file.height) == (64, 32)
    assert file.sha256 is not None
    image = cv2.imread(str(image_path(store, dataset, file.sha256)))
    assert image is not None
    assert image.mean() > 190


def test_a_job_that_ends_early_adds_nothing(
    tmp_path: Path,
    settings: Settings,
    rows: DatasetRows,
    dataset: str,
    video: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = DatasetStore.of(settings).listing(dataset)
    work = work_on(tmp_path / "job", video, dataset)
    work.cancel_after = 3
    with pytest.raises(WorkStoppedError):
        run(work, settings)
    with pytest.raises(InvalidVideo):
        run(work_on(tmp_path / "cut", b"no video", dataset), settings)
    with pytest.raises(DatasetNotFound):
        run(work_on(tmp_path / "gone", video, "ds_nonesuch"), settings)
    monkeypatch.setattr(Jobs, "needs_dataset", lambda *_: True)
    with pytest.raises(Conflict, match="A training uses"):
        run(work_on(tmp_path / "used", video, dataset), settings)
    assert DatasetStore.of(settings).listing(dataset) == before


def test_a_process_that_dies_after_adding_adds_once(
    tmp_path: Path,
    settings: Settings,
    rows: DatasetRows,
    dataset: str,
    video: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def die(*arguments: Any, **_: Any) -> None:
        arguments[4]()
        raise Unavailable("killed", retry_after=1)

    work = work_on(tmp_path / "job", video, dataset)
    change = DatasetRows.change
    monkeypatch.setattr(DatasetRows, "change", die)
    with pytest.raises(Unavailable):
        run(work, settings)
    monkeypatch.setattr(DatasetRows, "change", change)
    result = run(work, settings)
    listing = DatasetStore.of(settings).listing(dataset)
    assert result["added"] == len(listing.files) == TAKEN
    assert rows.get(dataset) == listing.info


def test_faces_are_cut_out(
    tmp_path: Path, settings: Settings, rows: DatasetRows, dataset: str, shared: Path, fetched: Path
) -> None:
    clip = shared / "data" / "face-videos" / "single_face.mp4"
    settings = settings.model_copy(update={"weights_dir": fetched / "weights"})
    try:
        Weights.of(settings).find("face_finder")
    except WeightsMissing as missing:
        pytest.skip(missing.detail)
    work = work_on(tmp_path / "job", clip.read_bytes(), dataset, region="face", max_frames=3)
    result = run(work, settings)
    files = DatasetStore.of(settings).listing(dataset).files
    assert result["added"] == len(files) > 0
    for file in files:
        assert 0.5 < (file.width or 0) / (file.height or 1) < 2


def test_images_that_would_fill_the_memory_are_refused(
    settings: Settings,
    dataset: str,
    video: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dataset_video, "_MAX_TAKEN_BYTES", 3000)
    work = work_on(tmp_path, video, dataset)
    with pytest.raises(PayloadTooLarge, match="smaller max_frames"):
        run(work, settings)
    assert 0 < len(work.reported) < TAKEN - 1
    assert not DatasetStore.of(settings).listing(dataset).files

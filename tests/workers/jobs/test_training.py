"""Training the classic face classifier on enrolled people, and erasing one of them."""

import io
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contracts.errors import Conflict, NotTrainable, SubjectNotFound
from contracts.faces.consent import NewPolicy
from contracts.faces.faces import Quality
from contracts.faces.subjects import NewSubject, NewTemplate, StoredFrame
from contracts.settings import Settings
from contracts.training.training_result import TrainingResult
from database.engine import open_engine
from database.faces.repositories import FaceRepositories
from database.installation import adopt
from models.faces.provenance import TrainedVersion, versions_trained_on
from models.store.store import Store
from models.training import run as training
from models.training.presets import training_request
from tests.models import keras_warnings
from tests.models.training.in_memory_work import InMemoryWork
from tests.tables import make_tables
from workers.jobs.training import SubjectSource

pytestmark = keras_warnings.ignored

COLORS = ((200, 40, 40), (40, 200, 40), (40, 40, 200))
QUALITY = Quality(sharpness=100, brightness=120, yaw=0, pitch=0, roll=0, size=60, acceptable=True)
FRAMES = 8


def image(color: tuple[int, int, int], rng: np.random.Generator) -> bytes:
    pixels = np.clip(rng.normal(color, 30, (70, 50, 3)), 0, 255).astype(np.uint8)
    packed = io.BytesIO()
    Image.fromarray(pixels).save(packed, "PNG")
    return packed.getvalue()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, decode_threads=1, job_threads=1)


@pytest.fixture
def faces(settings: Settings) -> Iterator[FaceRepositories]:
    make_tables(settings.database)
    engine = open_engine(settings.database)
    adopt(engine, settings.home)
    yield FaceRepositories.of(settings, engine, lambda: datetime.now(UTC))
    engine.dispose()


@pytest.fixture
def subjects(faces: FaceRepositories) -> tuple[str, ...]:
    rng = np.random.default_rng(8)
    ids = []
    for color in COLORS:
        subject = faces.subjects.create(NewSubject(name=str(color), keep_frames=True))["id"]
        ids.append(subject)
        for _ in range(FRAMES):
            vector = rng.normal(size=128).astype(np.float32)
            vector /= np.linalg.norm(vector)
            frame = StoredFrame("image/png", image(color, rng))
            new = NewTemplate(vector, QUALITY, "image", frame)
            faces.templates.add(subject, [new], embedder="face_embedder:1")
    return tuple(ids)


def work_of(settings: Settings, subjects: tuple[str, ...], job: str = "job_1") -> InMemoryWork:
    request = training_request(
        {
            "subjects": subjects,
            "model": "door",
            "network": "face_cnn",
            "epochs": {"scratch": 1},
            # The tutorial's own head has 50 million weights.
            "head": {"units": [8]},
        }
    )
    folder = settings.home / "work" / job
    folder.mkdir(parents=True)
    return InMemoryWork(job, request.model_dump(mode="json"), folder)


def source_of(
    work: InMemoryWork, faces: FaceRepositories, subjects: tuple[str, ...]
) -> SubjectSource:
    return SubjectSource(work, faces, lambda frame: frame, subjects)


def test_a_model_is_trained_and_no_image_leaves_the_process(
    settings: Settings, faces: FaceRepositories, subjects: tuple[str, ...]
) -> None:
    work = work_of(settings, subjects)
    result = TrainingResult.model_validate(
        training.run(work, settings, source_of(work, faces, subjects))
    )
    assert (result.model, result.network, result.promoted) == ("door", "cnn_face", True)
    assert result.classes == sorted(subjects)
    store = Store(settings.store_home)
    assert store.manifest("door", 1).input_size == (70, 50)
    assert all(versions_trained_on(store, one) == [TrainedVersion("door", 1)] for one in subjects)
    assert not {"mistakes.png", "predictions.csv"} & work.artifacts.keys()
    frames = {
        faces.frames.get(subject, one).content
        for subject in subjects
        for one in faces.frames.ids_of_subject(subject)
    }
    pixels = {np.asarray(Image.open(io.BytesIO(one))).tobytes() for one in frames}
    assert len(pixels) == len(COLORS) * FRAMES
    with np.load(store.path("door", 1) / "reference.npz", allow_pickle=False) as reference:
        assert not pixels & {one.tobytes() for one in reference["pictures"]}
    for path in settings.home.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        assert not any(one in content for one in frames | pixels), path


@pytest.mark.parametrize("fault", ["damaged", "lost"])
def test_a_frame_that_cannot_be_read_is_left_out(
    settings: Settings, faces: FaceRepositories, subjects: tuple[str, ...], fault: str
) -> None:
    ids = faces.frames.ids_of_subject(subjects[0])
    path = settings.faces_home / subjects[0] / ids[0]
    path.unlink() if fault == "lost" else path.write_bytes(b"\x01\x00" + bytes(40))
    source = source_of(work_of(settings, subjects), faces, subjects)
    assert [file_id for file_id, _ in source._portraits(subjects[0])] == ids[1:]


@pytest.mark.parametrize("moment", ["publish", "promote"])
def test_an_erasure_during_a_training_prevents_its_version(
    settings: Settings, faces: FaceRepositories, subjects: tuple[str, ...], moment: str
) -> None:
    def erase(phase: str) -> None:
        if phase == moment:
            faces.subjects.erase(subjects[1])

    work = work_of(settings, subjects)
    work = InMemoryWork(work.job_id, work.request, work.folder, on_phase=erase)
    with pytest.raises(SubjectNotFound):
        training.run(work, settings, source_of(work, faces, subjects))
    store = Store(settings.store_home)
    assert "door" not in store.models() or store.versions("door") == []


def test_the_split_depends_only_on_the_frames(
    settings: Settings, faces: FaceRepositories, subjects: tuple[str, ...]
) -> None:
    source = source_of(work_of(settings, subjects), faces, subjects)
    first, again = source.load(), source.load()
    assert first.private
    assert first.dataset == again.dataset
    assert [len(first.dataset.of(split)) for split in ("train", "validation", "test")] == [18, 3, 3]
    for subject in subjects:
        newest = faces.frames.ids_of_subject(subject)[-2:]
        splits = {one.path.name: one.split for one in first.dataset.examples}
        assert [splits[one] for one in newest] == ["validation", "test"]
    assert all(not one.path.exists() for one in first.dataset.examples)


def test_a_subject_with_too_few_frames_is_named(
    settings: Settings, faces: FaceRepositories, subjects: tuple[str, ...]
) -> None:
    blind = SubjectSource(work_of(settings, subjects), faces, lambda frame: None, subjects)
    with pytest.raises(NotTrainable, match=f"{subjects[0]} has 0 stored frames"):
        blind.load()


def test_a_consent_that_was_withdrawn_ends_the_training(
    settings: Settings, faces: FaceRepositories, subjects: tuple[str, ...]
) -> None:
    source = source_of(work_of(settings, subjects), faces, subjects)
    source.check_publishable()
    faces.policy.set(NewPolicy(consent_required=True))
    for step in (source.load, source.check_publishable):
        with pytest.raises(Conflict, match="consent"):
            step()

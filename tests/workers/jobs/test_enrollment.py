"""Enrollments with real files, decoder and database; faces are plain colors that encode a person.

The color of an image is the person (red), the turn of the head (green) and a fault (blue), so that
every case can be constructed; real faces are in tests/models/faces and tests/flow.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import redis
from PIL import Image
from sqlalchemy import Engine, text

from contracts.errors import Conflict, InvalidVideo, LowQualityFace, ManyFaces, NoFace
from contracts.faces.consent import NewConsent, NewPolicy
from contracts.faces.enrollments import (
    VIDEO,
    AnsweredChallenge,
    EnrollmentRequest,
    EnrollmentResult,
    image_name,
)
from contracts.faces.faces import Box, Face, Quality
from contracts.faces.liveness import ACTIONS
from contracts.faces.subjects import NewSubject, NewTemplate, SubjectChange, embedder_of
from contracts.jobs import Progress
from contracts.queue import redis_keys
from contracts.queue.messages import Pixels, Vector
from contracts.settings import Settings
from contracts.work import WorkStoppedError
from database.engine import open_engine
from database.faces.repositories import FaceRepositories
from database.faces.template_rows import Damaged
from database.installation import adopt
from models.faces.detection.detection import DetectedFace
from models.store.store import Store
from tests.models.faces.rendering import write_video
from tests.tables import make_tables
from tests.valkey import RealValkey
from workers.jobs import enrollment as enrollments
from workers.jobs.enrollment import Enrollment

SIZE = 120
BLURRED, NO_FACE, CLOSED = 240, 200, 160
LOOK_ALIKE, PAIR, CROWD = 120, 80, 0
"""A look-look_alike; a second face of the same size; a second face in the background."""
EMBEDDER = embedder_of(1)


def make_frame(person: int, turn: float = 0, blue: int = 40) -> Pixels:
    """A frame: `turn` is from -1 to 1; blue above 150 is one of the faults above."""
    image = np.empty((SIZE, SIZE, 3), np.uint8)
    image[:] = (40 * person, 120 + 80 * turn, blue)
    return image


def look_alike(person: int) -> Pixels:
    """Another person with a cosine similarity of 0.87: below the threshold, but not a stranger."""
    return make_frame(person, 0, LOOK_ALIKE)


class FakeAnalyzer:
    """Analyzes such frames."""

    version = 1

    def find(self, image: Pixels, max_faces: int = 32) -> list[DetectedFace]:
        red, green, blue = image.reshape(-1, 3).mean(0)
        if abs(blue - NO_FACE) < 15:
            return []
        quality = Quality(
            sharpness=100,
            brightness=float(green),
            yaw=(green - 120) / 80 * 30,
            pitch=0,
            roll=0,
            size=60,
            acceptable=blue < BLURRED - 15,
            reasons=("blurred",) if blue >= BLURRED - 15 else (),
        )
        face = Face(
            box=Box(x=10, y=10, width=90, height=90), score=0.9, landmarks={}, quality=quality
        )
        twin = abs(blue - LOOK_ALIKE) < 15
        first = DetectedFace(face, _mesh(closed=abs(blue - CLOSED) < 15), _crop(red, green, twin))
        return [first, *_other_faces(first, blue)][:max_faces]

    def track(self, image: Pixels, previous: DetectedFace | None) -> DetectedFace | None:
        return next(iter(self.find(image)), None)

    def embed(self, crops: Pixels) -> Vector:
        rows = []
        for red, green, twin in crops[:, 0, 0].astype(float):
            row = np.zeros(128)
            row[round(red / 40)] = 1
            row[99] = 0.57 * twin
            row[100] = (green - 120) / 80 * 0.4
            rows.append(row / np.linalg.norm(row))
        return np.array(rows, np.float32).reshape(len(crops), 128)


def _other_faces(first: DetectedFace, blue: float) -> list[DetectedFace]:
    if abs(blue - PAIR) >= 15 and blue >= 15:
        return []
    wide = 80 if blue >= 15 else 40
    box = first.face.box.model_copy(update={"width": wide, "height": wide})
    return [DetectedFace(first.face.model_copy(update={"box": box}), first.mesh, first.crop)]


def _crop(red: float, green: float, twin: bool = False) -> Pixels:
    return np.broadcast_to(np.array([red, green, twin], np.uint8), (150, 150, 3)).copy()


def _mesh(*, closed: bool) -> Any:
    mesh = np.zeros((468, 3), np.float32)
    mesh[:, 0], mesh[:, 1] = np.linspace(10, 100, 468), np.linspace(10, 100, 468)
    high = 1.0 if closed else 3.0
    for points, left in (((33, 160, 158, 133, 153, 144), 30), ((362, 385, 387, 263, 373, 380), 60)):
        for point, (x, y) in zip(
            points, [(0, 0), (6, high), (14, high), (20, 0), (14, -high), (6, -high)], strict=True
        ):
            mesh[point] = (left + x, 40 - y, 0)
    mesh[[13, 14, 78, 308]] = [(55, 80, 0), (55, 80.5, 0), (45, 80, 0), (65, 80, 0)]
    return mesh


@dataclass
class FakeWork:
    """A `contracts.work.Work` that records the calls."""

    request: dict[str, Any]
    folder: Path
    job_id: str = "job_one"
    attempt: int = 1
    stops_after: float = 2.0
    fractions: list[float] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def progress(self, progress: Progress) -> None:
        self.fractions.append(progress.fraction)
        self.check()

    def check(self) -> None:
        if self.fractions and self.fractions[-1] >= self.stops_after:
            raise WorkStoppedError("cancelled")

    def metrics(self, row: dict[str, Any]) -> None:
        self.rows.append(row)

    def artifact(self, name: str, media_type: str, content: bytes) -> None:
        raise AssertionError("an enrollment has no artifacts")


@dataclass
class Environment:
    settings: Settings
    engine: Engine
    faces: FaceRepositories
    folder: Path

    def subject(self, name: str = "Ada", *, keep_frames: bool = False) -> str:
        created = self.faces.subjects.create(NewSubject(name=name, keep_frames=keep_frames))
        return str(created["id"])

    def images(self, subject: str, images: Sequence[bytes], **how: Any) -> EnrollmentResult:
        for index, image in enumerate(images):
            (self.folder / image_name(index)).write_bytes(image)
        return self.enroll(EnrollmentRequest(subject_id=subject, images=len(images)), **how)

    def video(self, subject: str, frames: Sequence[Pixels], **how: Any) -> EnrollmentResult:
        # Motion JPEG preserves plain colors well enough.
        data = write_video(self.folder / "clip.avi", iter(frames), 15)
        (self.folder / VIDEO).write_bytes(data)
        return self.enroll(EnrollmentRequest(subject_id=subject), **how)

    def enroll(self, request: EnrollmentRequest, **how: Any) -> EnrollmentResult:
        work = FakeWork(request.model_dump(mode="json"), self.folder, **how)
        return Enrollment(work, self.settings, self.faces, FakeAnalyzer()).run()  # type: ignore[arg-type]

    def templates(self, subject: str) -> list[str]:
        return [one.id for one in self.faces.templates.of_subject(subject, embedder=EMBEDDER)]

    def outcomes(self, subject: str) -> list[str]:
        return [one.outcome for one in self.faces.events.list(subject_id=subject).items]


@pytest.fixture
def env(tmp_path: Path) -> Iterator[Environment]:
    settings = Settings(_env_file=None, home=tmp_path)
    make_tables(settings.database)
    engine = open_engine(settings.database)
    adopt(engine, settings.home)
    folder = tmp_path / "work"
    folder.mkdir()
    yield Environment(
        settings, engine, FaceRepositories.of(settings, engine, lambda: datetime.now(UTC)), folder
    )
    engine.dispose()


def png(image: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def turning(person: int, count: int = 40, blue: int = 40) -> list[Pixels]:
    return [make_frame(person, turn, blue) for turn in np.sin(np.linspace(0, 2 * np.pi, count))]


def test_a_clip_gives_few_templates_of_many_poses(env: Environment) -> None:
    ada = env.subject()
    frames = [
        *turning(1),
        *[make_frame(1, 0, BLURRED)] * 5,
        *[make_frame(1, 0, NO_FACE)] * 3,
        *[make_frame(1, 0, CLOSED)] * 4,
    ]
    result = env.video(ada, frames)
    counts = result.frames
    assert counts.read == 52 == counts.used + sum(counts.rejected.values())
    assert counts.rejected["blurred"] == 5
    assert counts.rejected["no_face"] == 3
    assert counts.rejected["expression"] == 4
    assert counts.rejected["redundant"] > 20
    assert 4 <= counts.used == result.templates_added == len(env.templates(ada)) <= 12
    assert result.liveness is None
    templates = env.faces.templates.of_subject(ada, embedder=EMBEDDER)
    yaws = [one.quality.yaw for one in templates]
    assert max(yaws) > 20
    assert min(yaws) < -20
    assert min(map(abs, yaws)) < 3
    assert env.outcomes(ada) == ["enrolled"]
    assert env.faces.subjects.get(ada).files == 0


def test_frames_are_stored_only_with_consent(env: Environment) -> None:
    ada = env.subject(keep_frames=True)
    used = env.images(ada, [png(make_frame(1)), png(make_frame(1, 0.5))]).frames.used
    assert used == 2 == env.faces.subjects.get(ada).files
    for file in env.settings.faces_home.rglob("ff_*"):
        assert not file.read_bytes().startswith(b"\xff\xd8"), "it is encrypted"


def test_a_consent_that_was_withdrawn_in_the_meantime_is_respected(env: Environment) -> None:
    ada = env.subject()
    env.faces.policy.set(NewPolicy(consent_required=True))
    with pytest.raises(Conflict, match="consent"):
        env.images(ada, [png(make_frame(1))])
    assert env.templates(ada) == []
    assert env.outcomes(ada) == ["conflict"]
    consent = NewConsent(version="1", text_digest="ab")
    env.faces.subjects.change(ada, SubjectChange(consent=consent))
    env.images(ada, [png(make_frame(1))], job_id="job_later")
    assert len(env.templates(ada)) == 1


def test_a_second_attempt_writes_the_same_templates(env: Environment) -> None:
    """As if the process of the first attempt was killed after writing them."""
    ada = env.subject(keep_frames=True)
    first = env.video(ada, turning(1))
    before = env.templates(ada)
    again = env.video(ada, turning(1), attempt=2)
    assert again == first
    assert sorted(env.templates(ada)) == sorted(before)
    assert env.faces.subjects.get(ada).files == len(before)
    # Another job adds its own.
    env.images(ada, [png(make_frame(1))], job_id="job_two")
    assert len(env.templates(ada)) == len(before) + 1


def test_a_cancelled_enrollment_stores_nothing(env: Environment) -> None:
    ada = env.subject()
    for fraction in (0.01, 0.7, 0.9):
        with pytest.raises(WorkStoppedError):
            env.video(ada, turning(1), stops_after=fraction)
        assert env.templates(ada) == []


def test_the_face_of_another_subject_is_refused(env: Environment) -> None:
    ada, eve = env.subject("Ada"), env.subject("Eve")
    env.images(ada, [png(make_frame(1)), png(make_frame(1, 0.5))])
    with pytest.raises(Conflict, match="another subject"):
        env.images(eve, [png(make_frame(1))], job_id="job_eve")
    with pytest.raises(Conflict, match="another subject"):
        env.video(eve, turning(1), job_id="job_eve")
    assert env.templates(eve) == []
    assert env.outcomes(eve) == ["conflict", "conflict"]
    # The own face is not another subject's.
    env.images(ada, [png(make_frame(1, -0.5))], job_id="job_more")


def test_a_different_face_is_refused(env: Environment) -> None:
    ada = env.subject("Ada")
    env.images(ada, [png(make_frame(1)), png(make_frame(1, 0.5))])
    before = env.templates(ada)
    with pytest.raises(Conflict, match="differs from"):
        env.images(ada, [png(make_frame(2))], job_id="job_eve")
    with pytest.raises(Conflict, match="differs from"):
        env.video(ada, turning(2), job_id="job_eve")
    assert env.templates(ada) == before
    assert env.outcomes(ada) == ["conflict", "conflict", "enrolled"]
    # One different face among images of the subject: the others are accepted.
    result = env.images(
        ada,
        [png(make_frame(1, turn)) for turn in (0, 0.2, 0.4, 0.3)] + [png(look_alike(1))],
        job_id="job_own",
    )
    assert result.templates_added == 4
    assert result.frames.rejected == {"different_person": 1}
    env.video(ada, turning(1), job_id="job_video")


def test_only_the_own_frames_of_a_clip_are_accepted(env: Environment) -> None:
    """Two people are so similar that a clip with both is not refused."""
    ada = env.subject("Ada")
    env.images(ada, [png(make_frame(1))])
    (own,) = env.faces.templates.of_subject(ada, embedder=EMBEDDER)
    result = env.video(ada, [*[make_frame(1)] * 20, *[look_alike(1)] * 10], job_id="job_mixed")
    assert result.frames.rejected["different_person"] == 1
    templates = env.faces.templates.of_subject(ada, embedder=EMBEDDER)
    assert [float(one.vector @ own.vector) > 0.99 for one in templates] == [True, True]


@pytest.mark.parametrize("after_another_embedder", [False, True])
@pytest.mark.parametrize("source", ["images", "clip"])
def test_a_first_enrollment_takes_one_of_two_similar_people(
    env: Environment, source: str, *, after_another_embedder: bool
) -> None:
    ada = env.subject("Ada")
    if after_another_embedder:
        env.images(ada, [png(make_frame(1))], job_id="job_old")
        with env.engine.begin() as connection:
            connection.execute(text("UPDATE face_templates SET embedder = 'face_embedder:0'"))
    if source == "images":
        images = [make_frame(1, turn) for turn in (0, 0.2, 0.4, 0.3)]
        result = env.images(ada, [png(image) for image in [*images, look_alike(1)]])
    else:
        result = env.video(ada, [*turning(1), *[look_alike(1)] * 9])
    assert result.frames.rejected["another_person"] >= 1
    (other,) = FakeAnalyzer().embed(_crop(40, 120, twin=True)[None])
    templates = env.faces.templates.of_subject(ada, embedder=EMBEDDER)
    assert len(templates) > 3
    assert max(float(one.vector @ other) for one in templates) < 0.9


def test_frames_of_a_clip_that_resemble_another_subject_are_left_out(env: Environment) -> None:
    """They would make the other's logins uncertain."""
    eve, ada = env.subject("Eve"), env.subject("Ada")
    env.images(eve, [png(make_frame(1, 1.6))])
    (other,) = env.faces.templates.of_subject(eve, embedder=EMBEDDER)
    result = env.video(ada, turning(1), job_id="job_ada")
    assert result.frames.rejected["different_person"] >= 1
    templates = env.faces.templates.of_subject(ada, embedder=EMBEDDER)
    assert max(float(one.vector @ other.vector) for one in templates) < 0.948


def test_clips_of_enrollments_displace_none_of_logins(env: Environment, valkey: RealValkey) -> None:
    """No lockout limits them."""
    ada = env.subject("Ada")
    env.settings = env.settings.model_copy(update={"redis_url": valkey.url})
    data = write_video(env.folder / "clip.avi", iter(turning(1)), 15)
    (env.folder / VIDEO).write_bytes(data)
    challenge = AnsweredChallenge(id="ch_1", actions=ACTIONS[:3])
    with pytest.raises(InvalidVideo, match="challenge"):
        env.enroll(EnrollmentRequest(subject_id=ada, challenge=challenge))
    with redis.Redis.from_url(valkey.url) as client:
        assert client.llen(redis_keys.recent_clips(ada, "enroll")) == 1
        assert client.llen(redis_keys.recent_clips(ada)) == 0


def test_an_enrollment_replaces_a_damaged_template(env: Environment) -> None:
    ada = env.subject("Ada")
    env.images(ada, [png(make_frame(1))])
    env.images(ada, [png(make_frame(1))], job_id="job_second")
    first, second = env.faces.templates.of_subject(ada, embedder=EMBEDDER)
    damage(env, first.id)
    env.images(ada, [png(make_frame(1))], job_id="job_third")
    templates = env.faces.templates.of_subject(ada, embedder=EMBEDDER)
    assert [second.id in {one.id for one in templates}, len(templates)] == [True, 2]


def test_nobody_is_enrolled_as_a_subject_whose_templates_are_all_damaged(env: Environment) -> None:
    ada = env.subject("Ada")
    env.images(ada, [png(make_frame(1))])
    damage(env, env.faces.templates.of_subject(ada, embedder=EMBEDDER)[0].id)
    with pytest.raises(Damaged, match="Delete the subject"):
        env.images(ada, [png(make_frame(2))], job_id="job_other")


def damage(env: Environment, template_id: str) -> None:
    with env.engine.begin() as connection:
        junk = text("UPDATE face_templates SET sealed = :junk WHERE id = :id")
        connection.execute(junk, {"junk": b"junk", "id": template_id})


def test_templates_of_an_earlier_embedder_are_ignored(env: Environment) -> None:
    ada = env.subject("Ada")
    env.images(ada, [png(make_frame(1))])
    old = env.faces.templates.of_subject(ada, embedder=EMBEDDER)[0]
    env.faces.templates.remove(ada, [old.id])
    env.faces.templates.add(
        ada, [NewTemplate(old.vector, old.quality, "image")], embedder=embedder_of(2)
    )
    assert env.images(ada, [png(make_frame(2))], job_id="job_new").templates_added == 1


def test_templates_of_an_earlier_embedder_are_compared_while_it_exists(
    env: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = []

    def open_embedder(settings: Settings, store: Store, version: int, *, threads: int) -> Any:
        versions.append(version)
        return lambda crops: FakeAnalyzer().embed(crops)[:, ::-1]

    monkeypatch.setattr(enrollments, "open_embedder", open_embedder)
    ada, eve = env.subject("Ada"), env.subject("Eve")
    (old,) = FakeAnalyzer().embed(_crop(40, 120)[None])
    quality = FakeAnalyzer().find(make_frame(1))[0].face.quality
    env.faces.templates.add(
        ada, [NewTemplate(old[::-1].copy(), quality, "image")], embedder=embedder_of(7)
    )
    with pytest.raises(Conflict, match="already enrolled as another"):
        env.images(eve, [png(make_frame(1, 0.1))], job_id="job_eve")
    with pytest.raises(Conflict, match="differs from"):
        env.images(ada, [png(make_frame(2))], job_id="job_other")
    assert env.images(ada, [png(make_frame(1, 0.1))], job_id="job_own").templates_added == 1
    assert versions == [7], "it is loaded once"
    env.faces.templates.remove(
        ada, [one.id for one in env.faces.templates.of_subject(ada, embedder=embedder_of(7))]
    )
    env.images(ada, [png(make_frame(1, 0.2))], job_id="job_last")
    assert not enrollments._earlier, "it is unloaded"


@pytest.mark.parametrize("failure", ["load", "run"])
def test_a_damaged_earlier_embedder_keeps_nobody_from_enrolling(
    env: Environment, monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    damaged = Mock(side_effect=ValueError("not a SavedModel"))
    opened = damaged if failure == "load" else Mock(return_value=damaged)
    monkeypatch.setattr(enrollments, "open_embedder", opened)
    ada, eve = env.subject("Ada"), env.subject("Eve")
    (old,) = FakeAnalyzer().embed(_crop(40, 120)[None])
    quality = FakeAnalyzer().find(make_frame(1))[0].face.quality
    env.faces.templates.add(ada, [NewTemplate(old, quality, "image")], embedder=embedder_of(7))
    assert env.images(eve, [png(make_frame(1, 0.1))], job_id="job_eve").templates_added == 1
    assert damaged.called
    enrollments._earlier.clear()


@pytest.mark.parametrize("same_subject", [True, False])
def test_one_of_two_conflicting_enrollments_is_refused(
    env: Environment, *, same_subject: bool
) -> None:
    """One face for two subjects, or two faces for one subject: the second one to write fails."""
    ada = env.subject("Ada")
    eve = ada if same_subject else env.subject("Eve")
    enrollment = prepared(env, ada, make_frame(1), "job_ada")
    store = enrollment._store

    def after_the_other(*what: Any) -> None:
        env.images(eve, [png(make_frame(2 if same_subject else 1))], job_id="job_eve")
        store(*what)

    enrollment._store = after_the_other  # type: ignore[assignment,method-assign]
    with pytest.raises(Conflict):
        enrollment.run()
    assert len(env.templates(eve)) == 1
    assert len(env.templates(ada)) == int(same_subject)


def prepared(env: Environment, subject: str, image: Pixels, job_id: str) -> Enrollment:
    folder = env.folder.with_name(job_id)
    folder.mkdir()
    (folder / image_name(0)).write_bytes(png(image))
    request = EnrollmentRequest(subject_id=subject, images=1).model_dump(mode="json")
    return Enrollment(FakeWork(request, folder, job_id), env.settings, env.faces, FakeAnalyzer())  # type: ignore[arg-type]


def test_a_face_in_the_background_is_ignored(env: Environment) -> None:
    ada = env.subject()
    result = env.images(ada, [png(make_frame(1, 0, CROWD)), png(make_frame(1, 0, PAIR))])
    assert result.templates_added == 1
    assert result.frames.rejected == {"many_faces": 1}


def test_several_people_are_refused(env: Environment) -> None:
    ada = env.subject()
    with pytest.raises(ManyFaces):
        env.video(ada, [*turning(1, 20), *turning(3, 20)])
    # A single frame of a passer-by is left out.
    result = env.video(ada, [*turning(1, 39), make_frame(3)])
    assert result.frames.rejected["another_person"] == 1


def test_unusable_input_is_reported(env: Environment) -> None:
    ada = env.subject()
    with pytest.raises(NoFace):
        env.images(ada, [png(make_frame(1, 0, NO_FACE))])
    with pytest.raises(LowQualityFace, match=r"blurred \(1\).*not readable \(1\)"):
        env.images(ada, [png(make_frame(1, 0, BLURRED)), b"GIF89a but no more"])
    (env.folder / VIDEO).write_bytes(b"RIFF\0\0\0\0AVI nothing")
    with pytest.raises(InvalidVideo):
        env.enroll(EnrollmentRequest(subject_id=ada))
    assert env.templates(ada) == []


def test_the_number_of_templates_is_limited(env: Environment) -> None:
    ada = env.subject()
    for job in range(4):
        images = [png(make_frame(1, turn)) for turn in np.linspace(-1, 1, 10)]
        env.images(ada, images, job_id=f"job_{job}")
    assert len(env.templates(ada)) == 32
    with pytest.raises(Conflict, match="32 templates"):
        env.images(ada, [png(make_frame(1))], job_id="job_last")


def test_progress_increases(env: Environment) -> None:
    ada = env.subject()
    data = write_video(env.folder / "clip.avi", iter(turning(1)), 15)
    (env.folder / VIDEO).write_bytes(data)
    work = FakeWork(EnrollmentRequest(subject_id=ada).model_dump(mode="json"), env.folder)
    Enrollment(work, env.settings, env.faces, FakeAnalyzer()).run()  # type: ignore[arg-type]
    assert work.fractions == sorted(work.fractions)
    assert len(work.fractions) > 40

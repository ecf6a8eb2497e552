"""Enrollments with real files, decoder and database; faces are painted squares that say who it is.

A picture's color is the person (red), the turn of the head (green) and what is wrong (blue), so
that every case can be made; real faces are in tests/models/faces and tests/flow.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import Engine

from contracts.errors import Conflict, InvalidVideo, LowQualityFace, ManyFaces, NoFace
from contracts.faces.enrollments import VIDEO, EnrollmentRequest, EnrollmentResult, image_name
from contracts.faces.faces import Box, Face, Quality
from contracts.faces.subjects import NewSubject, NewTemplate, embedder_of
from contracts.jobs import Progress
from contracts.queue.messages import Pixels, Vector
from contracts.settings import Settings
from contracts.work import WorkStoppedError
from database.engine import open_engine
from database.faces.faces import Faces
from database.migrations import upgrade
from models.faces.detection.detection import FoundFace
from tests.models.faces.rendering import write_video
from workers.jobs.enrollment import Enrollment

SIZE = 120
BLURRED, NOBODY, CLOSED = 240, 200, 160
ALIKE, PAIR, CROWD = 120, 80, 0
"""A near twin; a second face as large; a second face far behind."""
EMBEDDER = embedder_of(1)


def shot(person: int, turn: float = 0, blue: int = 40) -> Pixels:
    """A frame: `turn` from -1 to 1; blue over 150 is one of the faults above."""
    picture = np.empty((SIZE, SIZE, 3), np.uint8)
    picture[:] = (40 * person, 120 + 80 * turn, blue)
    return picture


def alike(person: int) -> Pixels:
    """Somebody who is like that person at a cosine of 0.87: under the threshold, no stranger."""
    return shot(person, 0, ALIKE)


class Painted:
    """An analyser of such frames."""

    version = 1

    def find(self, picture: Pixels, most: int = 32) -> list[FoundFace]:
        red, green, blue = picture.reshape(-1, 3).mean(0)
        if abs(blue - NOBODY) < 15:
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
        twin = abs(blue - ALIKE) < 15
        first = FoundFace(face, _mesh(closed=abs(blue - CLOSED) < 15), _chip(red, green, twin))
        return [first, *_beside(first, blue)][:most]

    def track(self, picture: Pixels, previous: FoundFace | None) -> FoundFace | None:
        return next(iter(self.find(picture)), None)

    def embed(self, chips: Pixels) -> Vector:
        rows = []
        for red, green, twin in chips[:, 0, 0].astype(float):
            row = np.zeros(128)
            row[round(red / 40)] = 1
            row[99] = 0.57 * twin
            row[100] = (green - 120) / 80 * 0.4
            rows.append(row / np.linalg.norm(row))
        return np.array(rows, np.float32).reshape(len(chips), 128)


def _beside(first: FoundFace, blue: float) -> list[FoundFace]:
    if abs(blue - PAIR) >= 15 and blue >= 15:
        return []
    wide = 80 if blue >= 15 else 40
    box = first.face.box.model_copy(update={"width": wide, "height": wide})
    return [FoundFace(first.face.model_copy(update={"box": box}), first.mesh, first.chip)]


def _chip(red: float, green: float, twin: bool = False) -> Pixels:
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
class Told:
    """A `contracts.work.Work` that only remembers."""

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
        raise AssertionError("an enrollment makes no files")


@dataclass
class House:
    settings: Settings
    engine: Engine
    faces: Faces
    folder: Path

    def subject(self, name: str = "Ada", *, keep_frames: bool = False) -> str:
        made = self.faces.subjects.create(NewSubject(name=name, keep_frames=keep_frames))
        return str(made["id"])

    def images(self, subject: str, pictures: Sequence[bytes], **how: Any) -> EnrollmentResult:
        for at, picture in enumerate(pictures):
            (self.folder / image_name(at)).write_bytes(picture)
        return self.enroll(EnrollmentRequest(subject_id=subject, images=len(pictures)), **how)

    def video(self, subject: str, frames: Sequence[Pixels], **how: Any) -> EnrollmentResult:
        # Lossless enough: Motion JPEG of plain colors.
        data = write_video(self.folder / "clip.avi", iter(frames), 15)
        (self.folder / VIDEO).write_bytes(data)
        return self.enroll(EnrollmentRequest(subject_id=subject), **how)

    def enroll(self, asked: EnrollmentRequest, **how: Any) -> EnrollmentResult:
        work = Told(asked.model_dump(mode="json"), self.folder, **how)
        return Enrollment(work, self.settings, self.faces, Painted()).run()  # type: ignore[arg-type]

    def templates(self, subject: str) -> list[str]:
        return [one.id for one in self.faces.templates.of(subject, embedder=EMBEDDER)]

    def outcomes(self, subject: str) -> list[str]:
        return [one.outcome for one in self.faces.events.list(subject_id=subject).items]


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    settings = Settings(_env_file=None, home=tmp_path)
    upgrade(settings.database)
    engine = open_engine(settings.database)
    folder = tmp_path / "work"
    folder.mkdir()
    yield House(settings, engine, Faces.of(settings, engine, lambda: datetime.now(UTC)), folder)
    engine.dispose()


def png(picture: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


def turning(person: int, count: int = 40, blue: int = 40) -> list[Pixels]:
    return [shot(person, turn, blue) for turn in np.sin(np.linspace(0, 2 * np.pi, count))]


def test_a_clip_gives_few_templates_of_many_poses(house: House) -> None:
    ada = house.subject()
    frames = [
        *turning(1),
        *[shot(1, 0, BLURRED)] * 5,
        *[shot(1, 0, NOBODY)] * 3,
        *[shot(1, 0, CLOSED)] * 4,
    ]
    result = house.video(ada, frames)
    counts = result.frames
    assert counts.read == 52 == counts.used + sum(counts.rejected.values())
    assert counts.rejected["blurred"] == 5
    assert counts.rejected["no_face"] == 3
    assert counts.rejected["expression"] == 4
    assert counts.rejected["redundant"] > 20
    assert 4 <= counts.used == result.templates_added == len(house.templates(ada)) <= 12
    assert result.liveness is None
    kept = house.faces.templates.of(ada, embedder=EMBEDDER)
    yaws = [one.quality.yaw for one in kept]
    assert max(yaws) > 20
    assert min(yaws) < -20
    assert min(map(abs, yaws)) < 3
    assert house.outcomes(ada) == ["enrolled"]
    assert house.faces.subjects.get(ada).files == 0


def test_frames_are_kept_only_where_the_record_says_so(house: House) -> None:
    ada = house.subject(keep_frames=True)
    used = house.images(ada, [png(shot(1)), png(shot(1, 1))]).frames.used
    assert used == 2 == house.faces.subjects.get(ada).files
    for file in house.settings.faces_home.rglob("ff_*"):
        assert not file.read_bytes().startswith(b"\xff\xd8"), "it is sealed"


def test_a_second_attempt_leaves_the_same_templates(house: House) -> None:
    """As after a kill: the first attempt wrote, and its process ended before the job did."""
    ada = house.subject(keep_frames=True)
    first = house.video(ada, turning(1))
    before = house.templates(ada)
    again = house.video(ada, turning(1), attempt=2)
    assert again == first
    assert sorted(house.templates(ada)) == sorted(before)
    assert house.faces.subjects.get(ada).files == len(before)
    # Another job adds its own.
    house.images(ada, [png(shot(1))], job_id="job_two")
    assert len(house.templates(ada)) == len(before) + 1


def test_a_cancelled_one_keeps_nothing(house: House) -> None:
    ada = house.subject()
    for fraction in (0.01, 0.7, 0.9):
        with pytest.raises(WorkStoppedError):
            house.video(ada, turning(1), stops_after=fraction)
        assert house.templates(ada) == []


def test_somebody_elses_face_is_refused(house: House) -> None:
    ada, eve = house.subject("Ada"), house.subject("Eve")
    house.images(ada, [png(shot(1)), png(shot(1, 0.5))])
    with pytest.raises(Conflict, match="another subject"):
        house.images(eve, [png(shot(1))], job_id="job_eve")
    with pytest.raises(Conflict, match="another subject"):
        house.video(eve, turning(1), job_id="job_eve")
    assert house.templates(eve) == []
    assert house.outcomes(eve) == ["conflict", "conflict"]
    # Oneself is nobody else.
    house.images(ada, [png(shot(1, -0.5))], job_id="job_more")


def test_a_stranger_cannot_join_a_subject(house: House) -> None:
    ada = house.subject("Ada")
    house.images(ada, [png(shot(1)), png(shot(1, 0.5))])
    before = house.templates(ada)
    with pytest.raises(Conflict, match="not the one"):
        house.images(ada, [png(shot(2))], job_id="job_eve")
    with pytest.raises(Conflict, match="not the one"):
        house.video(ada, turning(2), job_id="job_eve")
    assert house.templates(ada) == before
    assert house.outcomes(ada) == ["conflict", "conflict", "enrolled"]
    # One stranger among pictures of her own: hers are taken.
    result = house.images(
        ada, [png(shot(1, at)) for at in (0, 0.2, 0.4, 0.3)] + [png(alike(1))], job_id="job_own"
    )
    assert result.templates_added == 4
    assert result.frames.rejected == {"different_person": 1}
    house.video(ada, turning(1), job_id="job_video")


def test_of_a_clip_only_what_is_the_subjects_own_is_kept(house: House) -> None:
    """Two people so alike that one clip may show both."""
    ada = house.subject("Ada")
    house.images(ada, [png(shot(1))])
    (own,) = house.faces.templates.of(ada, embedder=EMBEDDER)
    result = house.video(ada, [*[shot(1)] * 20, *[alike(1)] * 10], job_id="job_mixed")
    assert result.frames.rejected["different_person"] == 1
    kept = house.faces.templates.of(ada, embedder=EMBEDDER)
    assert [float(one.vector @ own.vector) > 0.99 for one in kept] == [True, True]


def test_templates_of_an_earlier_embedder_vouch_for_nobody(house: House) -> None:
    ada = house.subject("Ada")
    house.images(ada, [png(shot(1))])
    old = house.faces.templates.of(ada, embedder=EMBEDDER)[0]
    house.faces.templates.remove(ada, [old.id])
    house.faces.templates.add(
        ada, [NewTemplate(old.vector, old.quality, "image")], embedder=embedder_of(2)
    )
    assert house.images(ada, [png(shot(2))], job_id="job_new").templates_added == 1


@pytest.mark.parametrize("same_subject", [True, False])
def test_of_two_at_once_one_comes_first(house: House, *, same_subject: bool) -> None:
    """One face for two subjects, or two faces for one: whoever keeps last looks once more."""
    ada = house.subject("Ada")
    eve = ada if same_subject else house.subject("Eve")
    enrollment = prepared(house, ada, shot(1), "job_ada")
    keep = enrollment._keep

    def after_the_other(*what: Any) -> None:
        house.images(eve, [png(shot(2 if same_subject else 1))], job_id="job_eve")
        keep(*what)

    enrollment._keep = after_the_other  # type: ignore[method-assign]
    with pytest.raises(Conflict):
        enrollment.run()
    assert len(house.templates(eve)) == 1
    assert len(house.templates(ada)) == int(same_subject)


def prepared(house: House, subject: str, picture: Pixels, job_id: str) -> Enrollment:
    folder = house.folder.with_name(job_id)
    folder.mkdir()
    (folder / image_name(0)).write_bytes(png(picture))
    request = EnrollmentRequest(subject_id=subject, images=1).model_dump(mode="json")
    return Enrollment(Told(request, folder, job_id), house.settings, house.faces, Painted())  # type: ignore[arg-type]


def test_somebody_in_the_background_spoils_no_picture(house: House) -> None:
    ada = house.subject()
    result = house.images(ada, [png(shot(1, 0, CROWD)), png(shot(1, 0, PAIR))])
    assert result.templates_added == 1
    assert result.frames.rejected == {"many_faces": 1}


def test_one_person_at_a_time(house: House) -> None:
    ada = house.subject()
    with pytest.raises(ManyFaces):
        house.video(ada, [*turning(1, 20), *turning(3, 20)])
    # One frame of a passer-by among many is left out.
    result = house.video(ada, [*turning(1, 39), shot(3)])
    assert result.frames.rejected["another_person"] == 1


def test_what_cannot_be_used_is_told(house: House) -> None:
    ada = house.subject()
    with pytest.raises(NoFace):
        house.images(ada, [png(shot(1, 0, NOBODY))])
    with pytest.raises(LowQualityFace, match=r"blurred \(1\).*not readable \(1\)"):
        house.images(ada, [png(shot(1, 0, BLURRED)), b"GIF89a but no more"])
    (house.folder / VIDEO).write_bytes(b"RIFF\0\0\0\0AVI nothing")
    with pytest.raises(InvalidVideo):
        house.enroll(EnrollmentRequest(subject_id=ada))
    assert house.templates(ada) == []


def test_there_is_an_end_to_templates(house: House) -> None:
    ada = house.subject()
    for job in range(4):
        pictures = [png(shot(1, turn)) for turn in np.linspace(-1, 1, 10)]
        house.images(ada, pictures, job_id=f"job_{job}")
    assert len(house.templates(ada)) == 32
    with pytest.raises(Conflict, match="32 templates"):
        house.images(ada, [png(shot(1))], job_id="job_last")


def test_progress_grows(house: House) -> None:
    ada = house.subject()
    data = write_video(house.folder / "clip.avi", iter(turning(1)), 15)
    (house.folder / VIDEO).write_bytes(data)
    work = Told(EnrollmentRequest(subject_id=ada).model_dump(mode="json"), house.folder)
    Enrollment(work, house.settings, house.faces, Painted()).run()  # type: ignore[arg-type]
    assert work.fractions == sorted(work.fractions)
    assert len(work.fractions) > 40

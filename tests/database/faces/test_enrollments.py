"""What became of enrollments, and the copy of what is held, on both databases."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, update

from contracts.settings import Settings
from database.engine import writing
from database.faces.enrollments import failed_by_service
from database.faces.privacy.exports import held_data
from database.faces.repositories import FaceRepositories
from database.installation import adopt
from database.jobs.jobs import Jobs
from database.tables import JobRecord
from tests.database.conftest import Clock
from tests.database.faces.test_faces import NET, OLD, add_subject, template


@pytest.fixture
def faces(engine: Engine, clock: Clock, tmp_path: Path) -> FaceRepositories:
    adopt(engine, tmp_path)
    return FaceRepositories.of(Settings(_env_file=None, home=tmp_path), engine, clock)


def enroll(
    engine: Engine, clock: Clock, subject_id: str, state: str = "queued", **values: Any
) -> str:
    """The job of an enrollment that answers the challenge ch_1, in some state."""
    clock.advance(1)
    request = {"subject_id": subject_id, "images": 0, "challenge": {"id": "ch_1", "actions": []}}
    job_id = Jobs(engine, clock).create("enrollment", request, limit=99).job.id
    with writing(engine) as session:
        session.execute(
            update(JobRecord).where(JobRecord.id == job_id).values(state=state, **values)
        )
    return job_id


@pytest.mark.parametrize(
    ("state", "code", "expected"),
    [
        ("failed", "internal_error", True),
        ("failed", "model_not_ready", True),
        ("failed", "dependency_unavailable", True),
        ("failed", "invalid_video", False),
        ("failed", "conflict", False),
        ("failed", "a_code_of_a_later_release", False),
        ("failed", None, False),
        ("cancelled", None, False),
        ("queued", None, False),
        ("succeeded", None, False),
    ],
)
def test_whose_fault_a_failure_was(
    engine: Engine, clock: Clock, state: str, code: str | None, expected: bool
) -> None:
    Jobs(engine, clock).create("enrollment", {"subject_id": "sub_a", "images": 1}, limit=9)
    enroll(engine, clock, "sub_b", state="failed", error_code="internal_error")
    assert not failed_by_service(engine, "sub_a", "ch_1")
    enroll(engine, clock, "sub_a", state=state, error_code=code)
    assert failed_by_service(engine, "sub_a", "ch_1") == expected
    assert not failed_by_service(engine, "sub_a", "ch_2")
    enroll(engine, clock, "sub_a")
    assert not failed_by_service(engine, "sub_a", "ch_1"), "the newest one counts"


def test_all_that_is_held_is_collected(
    faces: FaceRepositories, engine: Engine, clock: Clock
) -> None:
    ada = add_subject(faces, "Ada", keep_frames=True)
    bea = add_subject(faces, "Bea", keep_frames=True)
    for subject_id in (ada, bea):
        faces.templates.add(subject_id, [template(b"frame"), template()], embedder=NET)
        faces.templates.add(subject_id, [template()], embedder=OLD)
    jobs = [enroll(engine, clock, ada), enroll(engine, clock, ada)]
    enroll(engine, clock, bea)
    held = held_data(engine, faces.cipher, ada)
    assert sorted(embedder for embedder, _ in held.templates) == [OLD, NET, NET]
    assert [file_id for file_id, _ in held.frames] == faces.frames.ids_of_subject(ada)
    assert [job.id for job in held.jobs] == jobs

"""Subjects, templates and frames in a real database, and that nothing is left of who is erased."""

import hashlib
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, func, select, text

from contracts.errors import (
    Conflict,
    IdempotencyConflict,
    NotFound,
    SubjectExists,
    SubjectNotFound,
    Unavailable,
    ValidationFailed,
)
from contracts.faces.faces import Quality
from contracts.faces.subjects import (
    LENGTH,
    MOST_TEMPLATES,
    ErasedCounts,
    Frame,
    NewEvent,
    NewSubject,
    NewTemplate,
    SubjectChange,
    Threshold,
)
from contracts.queue.messages import Vector
from contracts.settings import Settings
from database.faces.erasures import SCOPE
from database.faces.face_files import FaceFiles
from database.faces.faces import Faces
from database.faces.gallery import Gallery
from database.faces.gallery_source import EVERYTHING
from database.faces.subjects import Erasure
from database.idempotency import IdempotencyKey
from database.jobs.jobs import Jobs
from database.secure_delete import scrub
from database.tables import FaceEventRecord, Record
from tests.database.conftest import Clock

NET = "face_embedder:1"
OLD = "face_embedder:0"
GOOD = Quality(
    sharpness=9, brightness=9, yaw=0, pitch=0, roll=0, size=9, acceptable=True, reasons=()
)
RANDOM = np.random.default_rng(8)


def vector() -> Vector:
    drawn = RANDOM.normal(size=LENGTH)
    return (drawn / np.linalg.norm(drawn)).astype(np.float32)


def template(frame: bytes | None = None, shown: Vector | None = None) -> NewTemplate:
    kept = None if frame is None else Frame("image/png", frame)
    return NewTemplate(vector() if shown is None else shown, GOOD, "image", kept)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def faces(engine: Engine, clock: Clock, home: Path) -> Faces:
    return Faces.of(Settings(_env_file=None, home=home), engine, clock)


@pytest.fixture
def ada(faces: Faces) -> str:
    return made(faces, "Ada", keep_frames=True)


def made(faces: Faces, name: str, **more: Any) -> str:
    return str(faces.subjects.create(NewSubject(name=name, **more))["id"])


def test_a_subject_is_kept_as_it_was_sent(faces: Faces) -> None:
    subject_id = made(faces, "Ada", external_id="u1", metadata={"team": ["a", 1, None]})
    found = faces.subjects.get(subject_id)
    assert (found.name, found.external_id) == ("Ada", "u1")
    assert found.metadata == {"team": ["a", 1, None]}
    assert (found.templates.current, found.templates.stale, found.files) == (0, 0, 0)
    with pytest.raises(SubjectNotFound):
        faces.subjects.get("sub_nobody")


def test_an_external_id_is_one_persons(faces: Faces) -> None:
    first = made(faces, "Ada", external_id="u1")
    second = made(faces, "Bea", external_id="u2")
    made(faces, "Without"), made(faces, "Without")
    with pytest.raises(SubjectExists, match=first):
        made(faces, "Eve", external_id="u1")
    with pytest.raises(SubjectExists):
        faces.subjects.change(second, SubjectChange(external_id="u1"))
    faces.subjects.change(first, SubjectChange(external_id=None))
    assert faces.subjects.change(second, SubjectChange(external_id="u1")).external_id == "u1"
    assert [one.id for one in faces.subjects.list(external_id="u1").items] == [second]


def test_the_same_key_answers_as_the_first_time(faces: Faces) -> None:
    asked = IdempotencyKey("k", SCOPE, "digest")
    first = faces.subjects.create(NewSubject(name="Ada"), asked=asked)
    assert faces.subjects.create(NewSubject(name="Ada"), asked=asked) == first
    with pytest.raises(IdempotencyConflict):
        faces.subjects.create(NewSubject(name="B"), asked=IdempotencyKey("k", SCOPE, "other"))
    assert len(faces.subjects.list().items) == 1


def test_pages_do_not_shift(faces: Faces, clock: Clock) -> None:
    ids = []
    for at in range(5):
        clock.passes(at % 2)  # some at the same moment
        ids.append(made(faces, f"P{at}"))
    page = faces.subjects.list(limit=2)
    found = [one.id for one in page.items]
    clock.passes(1)
    made(faces, "later")
    while page.next_cursor:
        page = faces.subjects.list(limit=2, cursor=page.next_cursor)
        found += [one.id for one in page.items]
    assert sorted(found) == sorted(ids)
    for cursor in ("x", "W10=", "WyJhIiwiYiJd"):
        with pytest.raises(ValidationFailed):
            faces.subjects.list(cursor=cursor)


def test_templates_come_back_bit_for_bit_and_only_sealed_lie_in_the_rows(
    faces: Faces, engine: Engine, ada: str
) -> None:
    new = template()
    (template_id,) = faces.templates.add(ada, [new], embedder=NET)
    (found,) = faces.templates.of(ada, embedder=NET)
    assert found.id == template_id
    assert np.array_equal(found.vector, new.vector)
    assert faces.templates.of(ada, embedder=OLD) == []
    with engine.connect() as connection:
        sealed = connection.scalar(text("SELECT sealed FROM face_templates"))
    assert new.vector.tobytes()[:16] not in bytes(sealed)


def test_a_row_moved_to_another_subject_does_not_open(
    faces: Faces, engine: Engine, ada: str
) -> None:
    faces.templates.add(ada, [template()], embedder=NET)
    eve = made(faces, "Eve")
    with engine.begin() as connection:
        connection.execute(text("UPDATE face_templates SET subject_id = :eve"), {"eve": eve})
        connection.execute(text("UPDATE subjects SET revision = revision + 9"))
    with pytest.raises(Unavailable):
        faces.templates.of(eve, embedder=NET)
    assert len(faces.vectors.changes(EVERYTHING, embedder=NET).subjects[eve]) == 0


def test_what_is_no_embedding_is_refused(faces: Faces, ada: str) -> None:
    for wrong in (np.zeros(LENGTH, np.float32), np.ones(3, np.float32), vector() * np.nan):
        with pytest.raises(ValueError, match="length 1"):
            faces.templates.add(ada, [template(shown=wrong)], embedder=NET)


def test_a_subject_has_so_many_templates_and_replaced_ones_make_room(
    faces: Faces, ada: str, home: Path
) -> None:
    ids = faces.templates.add(
        ada, [template(b"frame %d" % at) for at in range(MOST_TEMPLATES)], embedder=NET
    )
    with pytest.raises(Conflict):
        faces.templates.add(ada, [template(b"more")], embedder=NET)
    faces.templates.add(ada, [template(b"better")], embedder=NET, replacing=ids[:1])
    counts = faces.subjects.get(ada, embedder=NET)
    assert (counts.templates.current, counts.files) == (MOST_TEMPLATES, MOST_TEMPLATES)
    assert len(list((home / "faces" / ada).iterdir())) == MOST_TEMPLATES
    faces.templates.add(ada, [template()], embedder="face_embedder:2")
    counts = faces.subjects.get(ada, embedder="face_embedder:2")
    assert (counts.templates.current, counts.templates.stale) == (1, MOST_TEMPLATES)


def test_frames_are_kept_sealed_and_only_where_asked_for(
    faces: Faces, ada: str, home: Path
) -> None:
    faces.templates.add(ada, [template(b"a frame"), template(b"a frame")], embedder=NET)
    (file_id,) = faces.frames.of(ada)
    assert faces.frames.get(ada, file_id) == Frame("image/png", b"a frame")
    (path,) = (home / "faces" / ada).iterdir()
    assert b"a frame" not in path.read_bytes()
    assert path.stat().st_mode & 0o077 == 0
    bea = made(faces, "Bea")
    faces.templates.add(bea, [template(b"a frame")], embedder=NET)
    assert faces.frames.of(bea) == []
    with pytest.raises(NotFound):
        faces.frames.get(bea, file_id)
    changed = faces.subjects.change(ada, SubjectChange(keep_frames=False))
    assert changed.files == 0
    assert not (home / "faces" / ada).exists()
    assert len(faces.templates.of(ada, embedder=NET)) == 2


def test_stale_templates_with_frames_are_made_anew(faces: Faces, ada: str) -> None:
    faces.templates.add(ada, [template(b"frame"), template()], embedder=OLD)
    (stale,) = faces.templates.stale(embedder=NET, most=9)
    before = faces.vectors.revision()
    renewed = vector()
    assert faces.templates.renew(stale, renewed, GOOD, embedder=NET)
    assert faces.vectors.revision() > before
    (found,) = faces.templates.of(ada, embedder=NET)
    assert np.array_equal(found.vector, renewed)
    assert faces.templates.stale(embedder=NET, most=9) == []
    counts = faces.subjects.get(ada, embedder=NET).templates
    assert (counts.current, counts.stale) == (1, 1)
    faces.subjects.erase(ada)
    assert not faces.templates.renew(stale, renewed, GOOD, embedder=NET)


def test_a_killed_process_leaves_no_file_for_long(faces: Faces, ada: str, home: Path) -> None:
    faces.templates.add(ada, [template(b"frame")], embedder=NET)
    (kept,) = faces.frames.of(ada)
    faces.files.put(ada, "ff_orphan", b"sealed")
    faces.files.put("sub_gone", "ff_orphan", b"sealed")
    assert faces.frames.sweep() == 0  # they may yet get their rows
    row = [(ada, kept)]
    assert FaceFiles(home / "faces").sweep(lambda ids: row, orphan_seconds=-1) == 2
    assert [path.name for path in (home / "faces").rglob("ff_*")] == [kept]
    assert not (home / "faces" / "sub_gone").exists()


def test_the_audit_holds_keyed_digests_newest_first(faces: Faces, ada: str) -> None:
    picture, address = b"a picture", "10.1.2.3"
    for at in range(3):
        faces.events.record(
            NewEvent("login", f"try {at}", ada, device=address, content=picture, request_id="r")
        )
    page = faces.events.list(limit=2)
    assert [one.outcome for one in page.items] == ["try 2", "try 1"]
    assert page.items[0].device == page.items[1].device != address
    assert page.items[0].digest != hashlib.sha256(picture).hexdigest()
    assert [one.outcome for one in faces.events.list(cursor=page.next_cursor).items] == ["try 0"]
    assert faces.events.list(subject_id="sub_other").items == []


def test_the_audits_lines_go_by_age_but_that_of_an_unfinished_erasure(
    faces: Faces, ada: str, clock: Clock
) -> None:
    faces.events.record(NewEvent("login", "match", ada))
    faces.subjects.erase(ada)
    clock.passes(10 * 86_400)
    faces.events.record(NewEvent("threshold", "0.9"))
    assert faces.events.forget_old(9) == 1
    assert [one.outcome for one in faces.events.list().items] == ["0.9", "erasing"]
    faces.erasures.finish(ada)
    assert faces.events.forget_old(9) == 1


def test_consent_withdrawn_while_frames_are_written_counts(
    faces: Faces, ada: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = FaceFiles.put

    def slow(files: FaceFiles, *of: Any) -> None:
        put(files, *of)
        faces.subjects.change(ada, SubjectChange(keep_frames=False))

    monkeypatch.setattr(FaceFiles, "put", slow)
    faces.templates.add(ada, [template(b"frame")], embedder=NET)
    told = faces.subjects.get(ada)
    assert (told.keep_frames, told.files, told.templates.current) == (False, 0, 1)
    assert [one.file_id for one in faces.templates.of(ada, embedder=NET)] == [None]
    assert list((home / "faces").rglob("ff_*")) == []


def test_the_threshold_is_the_default_until_one_is_put_there(faces: Faces, clock: Clock) -> None:
    assert faces.threshold.get().source == "default"
    faces.threshold.put(Threshold(similarity=0.8, source="calibration", measured_on="ds_1"))
    found = faces.threshold.put(Threshold(similarity=0.85))
    assert faces.threshold.get() == found
    assert found.updated_at == clock.now


def test_a_new_master_key_seals_all_anew(
    faces: Faces, engine: Engine, clock: Clock, home: Path, ada: str
) -> None:
    faces.templates.add(ada, [template(b"frame")], embedder=NET)
    signing, digest = faces.token_keys.signing().id, faces.digests.of(b"phone")
    file = Settings(_env_file=None, home=home).face_keys_file
    old = file.read_text()
    new = "new:" + "A" * 43 + "=\n"
    file.write_text(new + old)
    both = Faces.of(Settings(_env_file=None, home=home), engine, clock)
    assert (both.subjects.reseal(most=5), both.subjects.reseal(most=5)) == (1, 0)
    both.token_keys.reseal()
    both.digests.reseal()
    file.write_text(new)
    alone = Faces.of(Settings(_env_file=None, home=home), engine, clock)
    assert len(alone.templates.of(ada, embedder=NET)) == 1
    assert alone.frames.get(ada, alone.frames.of(ada)[0]).content == b"frame"
    assert alone.token_keys.signing().id == signing
    assert alone.digests.of(b"phone") == digest != faces.digests.of(b"phone2")
    file.write_text("lost:" + "B" * 43 + "=\n")
    with pytest.raises(Unavailable):
        Faces.of(Settings(_env_file=None, home=home), engine, clock).digests.of(b"phone")


@pytest.fixture
def scanned(engine: Engine, home: Path, tmp_path: Path) -> Callable[[], bytes]:
    """All bytes of the database and of the home, as a thief of the disk reads them."""

    def scan() -> bytes:
        found = b""
        if engine.dialect.name == "sqlite":
            for path in (tmp_path / "data").iterdir():
                found += path.read_bytes()
        else:
            with engine.connect() as connection:
                for table in Record.metadata.tables:
                    rows = connection.execute(text(f"SELECT * FROM {table}"))
                    found += "".join(str(tuple(row)) for row in rows).encode()
        for path in home.rglob("*"):
            found += str(path).encode() + (path.read_bytes() if path.is_file() else b"")
        return found

    return scan


def test_nothing_is_left_of_who_was_erased(
    faces: Faces, engine: Engine, clock: Clock, home: Path, scanned: Any
) -> None:
    frame, name = b"the picture of Zenobia " * 50, "Zenobia of Palmyra"
    new = NewSubject(name=name, external_id="zen-1", metadata={"m": "zzmeta"}, keep_frames=True)
    asked = IdempotencyKey("key", SCOPE, "d")
    zen = faces.subjects.create(new, asked=asked)["id"]
    bea = made(faces, "Bea")
    shown = [vector() for _ in range(6)]
    faces.templates.add(zen, [template(frame, one) for one in shown], embedder=NET)
    faces.templates.add(bea, [template()], embedder=NET)
    job = Jobs(engine, clock).create(
        "enrollment",
        {"subject_id": zen},
        limit=9,
        idempotency=IdempotencyKey("j", "enrollment", "d2"),
    )
    faces.events.record(NewEvent("login", "match", zen, device="phone", content=frame))
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT sealed FROM face_templates ORDER BY created_at"))
        sealed = [bytes(row[0]) for row in rows]
        key = bytes(
            connection.execute(
                text("SELECT data_key FROM subjects WHERE id = :id"), {"id": zen}
            ).scalar_one()
        )
    file = (home / "faces" / zen / faces.frames.of(zen)[0]).read_bytes()
    gallery = Gallery(faces.vectors)
    assert gallery.nearest(shown[0][None], embedder=NET, above=0.9, most=1)[0]
    assert name.encode() in scanned()

    erasure = faces.subjects.erase(zen)
    assert (erasure.counts.templates, erasure.counts.files) == (6, 1)
    assert erasure.jobs == (job.job.id,)
    gallery.forget()
    assert scrub(engine)

    left = scanned()
    held = gallery.rows.base
    assert held is not None
    for one in shown:
        assert one.tobytes() not in left
        assert one.tobytes() not in held.tobytes()
    mine = [name, "zen-1", "zzmeta", hashlib.sha256(frame).hexdigest(), job.job.id]
    for trace in (*map(str.encode, mine), frame[:20], file[:40], key):
        assert trace not in left
    assert sum(one in left for one in sealed) == (engine.dialect.name == "sqlite")  # Bea's
    assert len(gallery.rows) == 1
    with engine.connect() as connection:
        events = connection.execute(
            select(func.count(), func.count(FaceEventRecord.digest)).where(
                FaceEventRecord.subject_id == zen
            )
        ).one()
    assert tuple(events) == (2, 0)  # the login without its digest, and the erasure
    assert faces.erasures.pending(timedelta(seconds=-1)) == [zen]
    assert faces.subjects.erase(zen) == Erasure(ErasedCounts(templates=0, files=0), ())  # again
    assert faces.erasures.of([zen, bea, "sub_elsewhere"]) == {zen}
    faces.erasures.finish(zen)
    assert faces.erasures.pending(timedelta(seconds=-1)) == []
    assert faces.erasures.pending(timedelta(hours=1)) == [zen]
    faces.events.record(NewEvent("login", "no_match", zen, device="phone", content=frame))
    late = faces.events.list(subject_id=zen).items[0]  # it was judged while zen was erased
    assert (late.outcome, late.device, late.digest) == ("no_match", None, None)
    with pytest.raises(SubjectNotFound):
        faces.subjects.erase(zen)
    with pytest.raises(SubjectNotFound):
        faces.templates.add(zen, [template(frame)], embedder=NET)
    assert not (home / "faces" / zen).exists()

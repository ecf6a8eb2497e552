"""Subjects, templates and frames in a real database, and their complete erasure."""

import hashlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
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
    EMBEDDING_SIZE,
    MAX_TEMPLATES,
    ErasedCounts,
    NewEvent,
    NewSubject,
    NewTemplate,
    StoredFrame,
    Subject,
    SubjectChange,
    Threshold,
)
from contracts.queue.messages import Vector
from contracts.settings import Settings
from database.faces.face_files import FaceFiles
from database.faces.privacy.erasures import SCOPE
from database.faces.repositories import FaceRepositories
from database.faces.search.gallery import Gallery
from database.faces.search.gallery_source import EVERYTHING
from database.faces.subjects import Erasure
from database.faces.template_rows import Damaged, Unreadable
from database.idempotency import IdempotencyKey
from database.installation import adopt
from database.jobs.jobs import Jobs
from database.secure_delete import purge_deleted_rows
from database.tables import FaceEventRecord, Record
from tests.database.conftest import Clock

NET = "face_embedder:1"
OLD = "face_embedder:0"
GOOD = Quality(
    sharpness=9, brightness=9, yaw=0, pitch=0, roll=0, size=9, acceptable=True, reasons=()
)
RANDOM = np.random.default_rng(8)


def vector() -> Vector:
    random = RANDOM.normal(size=EMBEDDING_SIZE)
    return (random / np.linalg.norm(random)).astype(np.float32)


def template(frame: bytes | None = None, embedding: Vector | None = None) -> NewTemplate:
    stored = None if frame is None else StoredFrame("image/png", frame)
    return NewTemplate(vector() if embedding is None else embedding, GOOD, "image", stored)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def faces(engine: Engine, clock: Clock, home: Path) -> FaceRepositories:
    adopt(engine, home)
    return FaceRepositories.of(Settings(_env_file=None, home=home), engine, clock)


@pytest.fixture
def ada(faces: FaceRepositories) -> str:
    return add_subject(faces, "Ada", keep_frames=True)


def add_subject(faces: FaceRepositories, name: str, **more: Any) -> str:
    return str(faces.subjects.create(NewSubject(name=name, **more))["id"])


def test_nothing_is_stored_after_what_a_check_has_seen_was_taken_back(
    faces: FaceRepositories, ada: str
) -> None:
    """A consent is withdrawn while the check at the end of an enrollment compares faces."""
    with ThreadPoolExecutor(1) as pool:
        withdrawals: list[Future[Subject]] = []

        def check() -> None:
            change = SubjectChange(consent=None)
            withdrawals.append(pool.submit(faces.subjects.change, ada, change))
            done, _ = wait(withdrawals, timeout=0.5)
            assert not done, "acknowledged before the templates are stored"

        faces.templates.add(ada, [template()], embedder=NET, final_check=check)
        assert withdrawals[0].result(60).templates.current == 1


def test_a_subject_is_stored_as_sent(faces: FaceRepositories) -> None:
    subject_id = add_subject(faces, "Ada", external_id="u1", metadata={"team": ["a", 1, None]})
    found = faces.subjects.get(subject_id)
    assert (found.name, found.external_id) == ("Ada", "u1")
    assert found.metadata == {"team": ["a", 1, None]}
    assert (found.templates.current, found.templates.stale, found.files) == (0, 0, 0)
    with pytest.raises(SubjectNotFound):
        faces.subjects.get("sub_nobody")


def test_an_external_id_is_unique(faces: FaceRepositories) -> None:
    first = add_subject(faces, "Ada", external_id="u1")
    second = add_subject(faces, "Bea", external_id="u2")
    add_subject(faces, "Without"), add_subject(faces, "Without")
    with pytest.raises(SubjectExists, match=first):
        add_subject(faces, "Eve", external_id="u1")
    with pytest.raises(SubjectExists):
        faces.subjects.change(second, SubjectChange(external_id="u1"))
    faces.subjects.change(first, SubjectChange(external_id=None))
    assert faces.subjects.change(second, SubjectChange(external_id="u1")).external_id == "u1"
    assert [one.id for one in faces.subjects.list(external_id="u1").items] == [second]


def test_a_repeated_idempotency_key_returns_the_first_response(faces: FaceRepositories) -> None:
    key = IdempotencyKey("k", SCOPE, "digest")
    first = faces.subjects.create(NewSubject(name="Ada"), key=key)
    assert faces.subjects.create(NewSubject(name="Ada"), key=key) == first
    with pytest.raises(IdempotencyConflict):
        faces.subjects.create(NewSubject(name="B"), key=IdempotencyKey("k", SCOPE, "other"))
    assert len(faces.subjects.list().items) == 1


def test_pages_do_not_shift(faces: FaceRepositories, clock: Clock) -> None:
    ids = []
    for number in range(5):
        clock.advance(number % 2)  # some at the same moment
        ids.append(add_subject(faces, f"P{number}"))
    page = faces.subjects.list(limit=2)
    found = [one.id for one in page.items]
    clock.advance(1)
    add_subject(faces, "later")
    while page.next_cursor:
        page = faces.subjects.list(limit=2, cursor=page.next_cursor)
        found += [one.id for one in page.items]
    assert sorted(found) == sorted(ids)
    for cursor in ("x", "W10=", "WyJhIiwiYiJd"):
        with pytest.raises(ValidationFailed):
            faces.subjects.list(cursor=cursor)


def test_templates_are_returned_exactly_and_stored_encrypted(
    faces: FaceRepositories, engine: Engine, ada: str
) -> None:
    new = template()
    (template_id,) = faces.templates.add(ada, [new], embedder=NET)
    (found,) = faces.templates.of_subject(ada, embedder=NET)
    assert found.id == template_id
    assert np.array_equal(found.vector, new.vector)
    assert faces.templates.of_subject(ada, embedder=OLD) == []
    with engine.connect() as connection:
        sealed = connection.scalar(text("SELECT sealed FROM face_templates"))
    assert new.vector.tobytes()[:16] not in bytes(sealed)


def test_a_row_moved_to_another_subject_cannot_be_decrypted(
    faces: FaceRepositories, engine: Engine, ada: str
) -> None:
    faces.templates.add(ada, [template()], embedder=NET)
    eve = add_subject(faces, "Eve")
    with engine.begin() as connection:
        connection.execute(text("UPDATE face_templates SET subject_id = :eve"), {"eve": eve})
        connection.execute(text("UPDATE subjects SET revision = revision + 9"))
    with pytest.raises(Unavailable):
        faces.templates.of_subject(eve, embedder=NET)
    assert len(faces.gallery_source.changes(EVERYTHING, embedder=NET).subjects[eve]) == 0


def test_a_damaged_embedding_leaves_the_subject_its_others(
    faces: FaceRepositories, engine: Engine, ada: str
) -> None:
    damaged, kept = faces.templates.add(ada, [template(), template()], embedder=NET)
    with engine.begin() as connection:
        row = {"id": damaged}
        connection.execute(text("UPDATE face_templates SET sealed = 'x' WHERE id = :id"), row)
    assert [one.id for one in faces.templates.of_subject(ada, embedder=NET)] == [kept]


def test_a_malformed_embedding_is_refused(faces: FaceRepositories, ada: str) -> None:
    for wrong in (np.zeros(EMBEDDING_SIZE, np.float32), np.ones(3, np.float32), vector() * np.nan):
        with pytest.raises(ValueError, match="unit length"):
            faces.templates.add(ada, [template(embedding=wrong)], embedder=NET)


def test_templates_are_limited_and_replaced_ones_do_not_count(
    faces: FaceRepositories, ada: str, home: Path
) -> None:
    ids = faces.templates.add(
        ada, [template(b"frame %d" % number) for number in range(MAX_TEMPLATES)], embedder=NET
    )
    with pytest.raises(Conflict):
        faces.templates.add(ada, [template(b"more")], embedder=NET)
    faces.templates.add(ada, [template(b"better")], embedder=NET, replacing=ids[:1])
    counts = faces.subjects.get(ada, embedder=NET)
    assert (counts.templates.current, counts.files) == (MAX_TEMPLATES, MAX_TEMPLATES)
    assert len(list((home / "faces" / ada).iterdir())) == MAX_TEMPLATES
    faces.templates.add(ada, [template()], embedder="face_embedder:2")
    counts = faces.subjects.get(ada, embedder="face_embedder:2")
    assert (counts.templates.current, counts.templates.stale) == (1, MAX_TEMPLATES)


def test_frames_are_stored_encrypted_and_only_with_consent(
    faces: FaceRepositories, ada: str, home: Path
) -> None:
    faces.templates.add(ada, [template(b"a frame"), template(b"a frame")], embedder=NET)
    (file_id,) = faces.frames.ids_of_subject(ada)
    assert faces.frames.get(ada, file_id) == StoredFrame("image/png", b"a frame")
    (path,) = (home / "faces" / ada).iterdir()
    assert b"a frame" not in path.read_bytes()
    assert path.stat().st_mode & 0o077 == 0
    bea = add_subject(faces, "Bea")
    faces.templates.add(bea, [template(b"a frame")], embedder=NET)
    assert faces.frames.ids_of_subject(bea) == []
    with pytest.raises(NotFound):
        faces.frames.get(bea, file_id)
    changed = faces.subjects.change(ada, SubjectChange(keep_frames=False))
    assert changed.files == 0
    assert not (home / "faces" / ada).exists()
    assert len(faces.templates.of_subject(ada, embedder=NET)) == 2


@pytest.mark.parametrize("fault", ["damaged", "lost", "no key"])
def test_a_frame_that_cannot_be_read_is_not_said_to_lack_its_key(
    faces: FaceRepositories, ada: str, home: Path, engine: Engine, clock: Clock, fault: str
) -> None:
    faces.templates.add(ada, [template(b"a frame")], embedder=NET)
    (file_id,) = faces.frames.ids_of_subject(ada)
    path = home / "faces" / ada / file_id
    if fault == "damaged":
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    elif fault == "lost":
        path.unlink()
    else:
        (home / "secrets" / "faces.keys").write_text("new:" + "A" * 43 + "=\n")
        faces = FaceRepositories.of(Settings(_env_file=None, home=home), engine, clock)
    with pytest.raises(Unreadable) as error:
        faces.frames.get(ada, file_id)
    assert isinstance(error.value, Damaged) == (fault != "no key")
    assert ("faces.keys" in error.value.detail) == (fault == "no key")


def test_stale_templates_with_frames_can_be_updated(faces: FaceRepositories, ada: str) -> None:
    faces.templates.add(ada, [template(b"frame"), template()], embedder=OLD)
    (stale,) = faces.templates.stale(embedder=NET, limit=9)
    before = faces.gallery_source.revision()
    renewed = vector()
    assert faces.templates.update(stale, renewed, GOOD, embedder=NET)
    assert faces.gallery_source.revision() > before
    (found,) = faces.templates.of_subject(ada, embedder=NET)
    assert np.array_equal(found.vector, renewed)
    assert faces.templates.stale(embedder=NET, limit=9) == []
    counts = faces.subjects.get(ada, embedder=NET).templates
    assert (counts.current, counts.stale) == (1, 1)
    faces.subjects.erase(ada)
    assert not faces.templates.update(stale, renewed, GOOD, embedder=NET)


def test_files_of_a_killed_process_are_removed(
    faces: FaceRepositories, ada: str, home: Path
) -> None:
    faces.templates.add(ada, [template(b"frame")], embedder=NET)
    (file_id,) = faces.frames.ids_of_subject(ada)
    faces.files.put(ada, "ff_orphan", b"sealed")
    faces.files.put("sub_gone", "ff_orphan", b"sealed")
    assert faces.frames.remove_orphans() == 0  # their rows may still be added
    row = [(ada, file_id)]
    assert FaceFiles(home / "faces").remove_orphans(lambda ids: row, orphan_seconds=-1) == 2
    assert [path.name for path in (home / "faces").rglob("ff_*")] == [file_id]
    assert not (home / "faces" / "sub_gone").exists()


def test_more_folders_than_a_statement_has_parameters_are_swept(
    faces: FaceRepositories, ada: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    faces.templates.add(ada, [template(b"frame")], embedder=NET)
    others = [f"sub_{number}" for number in range(260_000)]
    rows: list[Any] = []
    monkeypatch.setattr(
        FaceFiles, "remove_orphans", lambda _, with_rows: rows.extend(with_rows([*others, ada]))
    )
    faces.frames.remove_orphans()
    assert rows == [(ada, faces.frames.ids_of_subject(ada)[0])]
    standings = faces.standings.of([*others, ada])
    assert {one: standing.name for one, standing in standings.items()} == {ada: "Ada"}


def test_the_audit_log_has_keyed_hashes_newest_first(faces: FaceRepositories, ada: str) -> None:
    image, address = b"an image", "10.1.2.3"
    for number in range(3):
        faces.events.record(
            NewEvent("login", f"try {number}", ada, device=address, content=image, request_id="r")
        )
    page = faces.events.list(limit=2)
    assert [one.outcome for one in page.items] == ["try 2", "try 1"]
    assert page.items[0].device == page.items[1].device != address
    assert page.items[0].digest != hashlib.sha256(image).hexdigest()
    assert [one.outcome for one in faces.events.list(cursor=page.next_cursor).items] == ["try 0"]
    assert faces.events.list(subject_id="sub_other").items == []


def test_old_audit_entries_are_deleted_except_of_unfinished_erasures(
    faces: FaceRepositories, ada: str, clock: Clock
) -> None:
    faces.events.record(NewEvent("login", "match", ada))
    faces.subjects.erase(ada)
    clock.advance(10 * 86_400)
    faces.events.record(NewEvent("threshold", "0.9"))
    assert faces.events.delete_old(9) == 1
    assert [one.outcome for one in faces.events.list().items] == ["0.9", "erasing"]
    faces.erasures.finish([ada])
    assert faces.events.delete_old(9) == 1


def test_consent_withdrawn_while_frames_are_written_is_respected(
    faces: FaceRepositories, ada: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = FaceFiles.put

    def slow(files: FaceFiles, *of: Any) -> None:
        put(files, *of)
        faces.subjects.change(ada, SubjectChange(keep_frames=False))

    monkeypatch.setattr(FaceFiles, "put", slow)
    faces.templates.add(ada, [template(b"frame")], embedder=NET)
    subject = faces.subjects.get(ada)
    assert (subject.keep_frames, subject.files, subject.templates.current) == (False, 0, 1)
    assert [one.file_id for one in faces.templates.of_subject(ada, embedder=NET)] == [None]
    assert list((home / "faces").rglob("ff_*")) == []


def test_the_default_threshold_applies_until_one_is_set(
    faces: FaceRepositories, clock: Clock
) -> None:
    assert faces.threshold.get().source == "default"
    faces.threshold.set(Threshold(similarity=0.8, source="calibration", measured_on="ds_1"))
    found = faces.threshold.set(Threshold(similarity=0.85))
    assert faces.threshold.get() == found
    assert found.updated_at == clock.now


def test_everything_can_be_reencrypted_with_a_new_master_key(
    faces: FaceRepositories, engine: Engine, clock: Clock, home: Path, ada: str
) -> None:
    faces.templates.add(ada, [template(b"frame")], embedder=NET)
    signing, digest = faces.token_keys.signing().id, faces.keyed_hash.hexdigest(b"phone")
    file = Settings(_env_file=None, home=home).face_keys_file
    old = file.read_text()
    new = "new:" + "A" * 43 + "=\n"
    file.write_text(new + old)
    both = FaceRepositories.of(Settings(_env_file=None, home=home), engine, clock)
    assert [both.subjects.reencrypt(limit=5).count for _ in range(2)] == [1, 0]
    both.token_keys.reencrypt()
    both.keyed_hash.reencrypt()
    file.write_text(new)
    new_only = FaceRepositories.of(Settings(_env_file=None, home=home), engine, clock)
    assert len(new_only.templates.of_subject(ada, embedder=NET)) == 1
    assert new_only.frames.get(ada, new_only.frames.ids_of_subject(ada)[0]).content == b"frame"
    assert new_only.token_keys.signing().id == signing
    assert (
        new_only.keyed_hash.hexdigest(b"phone") == digest != faces.keyed_hash.hexdigest(b"phone2")
    )
    file.write_text("lost:" + "B" * 43 + "=\n")
    with pytest.raises(Unavailable):
        FaceRepositories.of(
            Settings(_env_file=None, home=home), engine, clock
        ).keyed_hash.hexdigest(b"phone")


@pytest.fixture
def scanned(engine: Engine, home: Path, tmp_path: Path) -> Callable[[], bytes]:
    """All bytes of the database and of the home, as someone who steals the disk reads them."""

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


def test_nothing_is_left_of_an_erased_subject(
    faces: FaceRepositories, engine: Engine, clock: Clock, home: Path, scanned: Any
) -> None:
    frame, name = b"the image of Zenobia " * 50, "Zenobia of Palmyra"
    new = NewSubject(name=name, external_id="zen-1", metadata={"m": "zzmeta"}, keep_frames=True)
    key = IdempotencyKey("key", SCOPE, "d")
    zen = faces.subjects.create(new, key=key)["id"]
    bea = add_subject(faces, "Bea")
    embeddings = [vector() for _ in range(6)]
    faces.templates.add(zen, [template(frame, embedding) for embedding in embeddings], embedder=NET)
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
        data_key = bytes(
            connection.execute(
                text("SELECT data_key FROM subjects WHERE id = :id"), {"id": zen}
            ).scalar_one()
        )
    file = (home / "faces" / zen / faces.frames.ids_of_subject(zen)[0]).read_bytes()
    gallery = Gallery(faces.gallery_source)
    assert gallery.nearest(embeddings[0][None], embedder=NET, min_similarity=0.9, limit=1)[0]
    assert name.encode() in scanned()

    erasure = faces.subjects.erase(zen)
    assert (erasure.counts.templates, erasure.counts.files) == (6, 1)
    assert erasure.jobs == (job.job.id,)
    assert Jobs(engine, clock).get(job.job.id).state == "cancelled"  # until its files are deleted
    faces.subjects.delete_jobs(erasure.jobs)
    gallery.refresh()
    assert purge_deleted_rows(engine)

    left = scanned()
    held = gallery.rows.base
    assert held is not None
    for embedding in embeddings:
        assert embedding.tobytes() not in left
        assert embedding.tobytes() not in held.tobytes()
    traces = [name, "zen-1", "zzmeta", hashlib.sha256(frame).hexdigest(), job.job.id]
    for trace in (*map(str.encode, traces), frame[:20], file[:40], data_key):
        assert trace not in left
    assert sum(one in left for one in sealed) == (engine.dialect.name == "sqlite")  # Bea's
    assert len(gallery.rows) == 1
    with engine.connect() as connection:
        events = connection.execute(
            select(func.count(), func.count(FaceEventRecord.digest)).where(
                FaceEventRecord.subject_id == zen
            )
        ).one()
    assert tuple(events) == (2, 0)  # the login without its hash, and the erasure
    assert faces.erasures.pending(timedelta(seconds=-1)) == [zen]
    assert faces.subjects.erase(zen) == Erasure(ErasedCounts(templates=0, files=0), ())  # again
    assert faces.erasures.erased_among([zen, bea, "sub_elsewhere"]) == {zen}
    faces.erasures.finish([zen])
    assert faces.erasures.pending(timedelta(seconds=-1)) == []
    assert faces.erasures.pending(timedelta(hours=1)) == [zen]
    faces.events.record(NewEvent("login", "no_match", zen, device="phone", content=frame))
    late = faces.events.list(subject_id=zen).items[0]  # it was judged while the subject was erased
    assert (late.outcome, late.device, late.digest) == ("no_match", None, None)
    with pytest.raises(SubjectNotFound):
        faces.subjects.erase(zen)
    with pytest.raises(SubjectNotFound):
        faces.templates.add(zen, [template(frame)], embedder=NET)
    assert not (home / "faces" / zen).exists()

"""The PostgreSQL index: a secret rotation, and the same results as the search in memory."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from sqlalchemy import Engine, text

from contracts.faces.subjects import EMBEDDING_SIZE
from contracts.queue.messages import Vector
from contracts.settings import Settings
from database.crypto.envelope import EnvelopeCipher
from database.crypto.master_keys import KeyFile
from database.engine import open_engine
from database.faces.repositories import FaceRepositories
from database.faces.search import vector_search, vector_tables
from database.faces.search.gallery import Gallery
from database.faces.search.vector_search import VectorSearch, rotation_matrix
from database.faces.search.vector_tables import build_index
from database.migrations import upgrade
from database.secure_delete import purge_deleted_rows, rewrite_for_erasures
from tests.database.conftest import Clock
from tests.database.faces.test_faces import NET, add_subject, template, vector
from tests.database.faces.test_secure_delete import heap
from tests.postgresql import new_database

FIRST = (0.02141821, 0.03180816, -0.11114575)


def test_the_rotation_preserves_products_and_depends_on_the_secret() -> None:
    rotation = rotation_matrix(bytes(32))
    assert np.allclose(rotation @ rotation.T, np.eye(EMBEDDING_SIZE), atol=1e-5)
    assert np.array_equal(rotation, rotation_matrix(bytes(32)))
    # The index on disk depends on this value: with another one nothing would be found.
    assert rotation[0, :3] == pytest.approx(FIRST, abs=1e-6)
    other = rotation_matrix(b"x" * 32)
    assert abs(float((rotation * other).sum())) < EMBEDDING_SIZE / 4
    one, two = vector(), vector()
    assert float((one @ rotation) @ (two @ rotation)) == pytest.approx(float(one @ two), abs=1e-5)


def test_a_running_process_uses_the_key_that_another_process_added(tmp_path: Path) -> None:
    settings = Settings(_env_file=None, home=tmp_path)
    file = KeyFile(settings.face_keys_file)
    file.create()
    running = VectorSearch(Mock(), Mock(), EnvelopeCipher.of_file(file))
    before = running._rotation()
    assert running._rotation() is before
    key = file.add()
    after = running._rotation()
    assert before.key_id != after.key_id == key.id
    fresh = VectorSearch(Mock(), Mock(), EnvelopeCipher.of_file(file))._rotation()
    assert np.array_equal(after.matrix, fresh.matrix)
    assert not np.allclose(after.matrix, before.matrix, atol=0.1)


def test_as_many_templates_are_read_as_the_wanted_subjects_need(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    index, read = list[tuple[str, float]](), list[int]()

    def query(session: object, rotated: Vector, templates: int) -> list[tuple[str, float]]:
        read.append(templates)
        return index[:templates]

    monkeypatch.setattr(vector_search, "_query", query)

    def found(limit: int, least: float = 0.5) -> int:
        read.clear()
        return len(vector_search._nearest(Mock(), vector(), least, limit))

    index[:] = [(f"sub_{number // 32}", 0.9) for number in range(320)]  # 32 of each
    assert (found(6), read) == (6, [200])
    assert (found(9), read) == (9, [200, 1600])
    assert (found(99), read) == (10, [200, 1600])
    index[:] = [(f"sub_{number}", 1 - number / 1000) for number in range(1000)]
    assert (found(999, least=0.9), read) == (101, [200]), "the rest is less similar"
    assert (found(999), read) == (501, [200, 1600])
    index[:] = [("sub_1", 0.9)] * 20_000
    assert (found(2), read) == (1, [200, 1600, 12_800]), "bounded"


@pytest.fixture
def pgvector(postgresql: str, request: pytest.FixtureRequest) -> Iterator[Engine]:
    """A new database of a server that has pgvector."""
    url = new_database(postgresql, f"vectors_{request.node.name}"[:60])
    engine = open_engine(url)
    with engine.connect() as connection:
        has = connection.scalar(
            text("SELECT count(*) FROM pg_available_extensions WHERE name = 'vector'")
        )
    if has:
        upgrade(url)
        yield engine
    engine.dispose()  # the server stops only without connections
    if not has:
        pytest.skip("this PostgreSQL has no pgvector; install e.g. postgresql-17-pgvector")


@pytest.mark.slow
def test_rows_that_were_replaced_hide_nobody(
    pgvector: Engine, tmp_path: Path, clock: Clock
) -> None:
    """Each new template of a person writes all of them anew; a vacuum comes much later."""
    with pgvector.begin() as connection:  # as with more rows
        name = connection.scalar(text("SELECT current_database()"))
        connection.execute(text(f'ALTER DATABASE "{name}" SET enable_seqscan = off'))
    pgvector.dispose()
    faces = FaceRepositories.of(Settings(_env_file=None, home=tmp_path), pgvector, clock)
    search = VectorSearch(pgvector, faces.gallery_source, faces.cipher)
    exact = Gallery(faces.gallery_source)
    search.prepare()
    with pgvector.begin() as connection:
        connection.execute(text("ALTER TABLE face_vectors SET (autovacuum_enabled = off)"))
    face = vector()

    def like(amount: float) -> Vector:
        other: Vector = face + amount * vector()
        return (other / np.linalg.norm(other)).astype(np.float32)

    for name in ("Twin", *"ABCDEFGH"):
        similar = like(0.5) if name == "Twin" else vector()
        faces.templates.add(add_subject(faces, name), [template(embedding=similar)], embedder=NET)
    ada = add_subject(faces, "Ada")
    for _ in range(32):
        faces.templates.add(ada, [template(embedding=like(0.1))], embedder=NET)
        queries = like(0.1)[None]
        (found,) = search.nearest(queries, embedder=NET, min_similarity=0.5, limit=4)
        (right,) = exact.nearest(queries, embedder=NET, min_similarity=0.5, limit=4)
        assert [one.subject_id for one in found] == [one.subject_id for one in right]
    assert len(right) == 2


@pytest.mark.slow
def test_hundreds_of_similar_people_hide_nobody(
    pgvector: Engine, tmp_path: Path, clock: Clock
) -> None:
    """Those who may not be identified, for lack of a consent, are left out by the caller."""
    with pgvector.begin() as connection:  # as with more rows
        name = connection.scalar(text("SELECT current_database()"))
        connection.execute(text(f'ALTER DATABASE "{name}" SET enable_seqscan = off'))
    pgvector.dispose()
    faces = FaceRepositories.of(Settings(_env_file=None, home=tmp_path), pgvector, clock)
    search = VectorSearch(pgvector, faces.gallery_source, faces.cipher)
    search.prepare()
    face = vector()

    def like(amount: float) -> Vector:
        other: Vector = face + amount * vector()
        return (other / np.linalg.norm(other)).astype(np.float32)

    for number in range(20):  # with 20 templates each, all nearer than Ada
        templates = [template(embedding=like(0.1)) for _ in range(20)]
        faces.templates.add(add_subject(faces, f"P{number}"), templates, embedder=NET)
    ada = add_subject(faces, "Ada")
    faces.templates.add(ada, [template(embedding=like(0.5))], embedder=NET)
    (found,) = search.nearest(face[None], embedder=NET, min_similarity=0.5, limit=88)
    assert (len(found), found[-1].subject_id) == (21, ada)


@pytest.mark.slow
def test_it_finds_what_the_search_in_memory_finds(
    pgvector: Engine, tmp_path: Path, clock: Clock
) -> None:
    engine = pgvector
    faces = FaceRepositories.of(Settings(_env_file=None, home=tmp_path), engine, clock)
    search = VectorSearch(engine, faces.gallery_source, faces.cipher)
    exact = Gallery(faces.gallery_source)
    search.prepare()
    search.prepare()
    vectors = [vector() for _ in range(60)]
    ids = [add_subject(faces, f"P{number}") for number in range(20)]
    for number, subject_id in enumerate(ids):
        own = vectors[3 * number : 3 * number + 3]
        faces.templates.add(subject_id, [template(embedding=v) for v in own], embedder=NET)
    queries = np.stack([*vectors[:9], *(vector() for _ in range(5))])
    for last in (False, True):
        found = search.nearest(queries, embedder=NET, min_similarity=0.1, limit=4)
        expected = exact.nearest(queries, embedder=NET, min_similarity=0.1, limit=4)
        for actual, right in zip(found, expected, strict=True):
            assert [one.subject_id for one in actual] == [one.subject_id for one in right]
        KeyFile(Settings(_env_file=None, home=tmp_path).face_keys_file).add()
        if not last:
            faces.subjects.erase(ids[0])
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM face_vectors")) == 57


def scalar(engine: Engine, query: str) -> Any:
    with engine.connect() as connection:
        return connection.scalar(text(query))


def has_index(engine: Engine) -> bool:
    query = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('face_vectors_nearest')"
    return bool(scalar(engine, query))


@pytest.mark.slow
def test_an_erasure_leaves_no_vector_in_a_file(
    pgvector: Engine, tmp_path: Path, clock: Clock
) -> None:
    faces = FaceRepositories.of(Settings(_env_file=None, home=tmp_path), pgvector, clock)
    search = VectorSearch(pgvector, faces.gallery_source, faces.cipher)
    search.prepare()
    vectors = [vector() for _ in range(30)]
    ids = [add_subject(faces, f"P{number}") for number in range(30)]
    for subject_id, own in zip(ids, vectors, strict=True):
        faces.templates.add(subject_id, [template(embedding=own)], embedder=NET)

    def found(number: int) -> list[str]:
        (one,) = search.nearest(vectors[number][None], embedder=NET, min_similarity=0.9, limit=1)
        return [each.subject_id for each in one]

    assert found(7) == [ids[7]]
    number = f"SELECT turned::text FROM face_vectors WHERE subject_id = '{ids[7]}'"
    turned = np.array(json.loads(scalar(pgvector, number)), "<f4").tobytes()
    assert turned in heap(pgvector)
    faces.subjects.erase(ids[7])
    with pgvector.connect() as builder:
        builder.execute(text(f"SELECT pg_advisory_lock({vector_tables._LOCK})"))
        assert not purge_deleted_rows(pgvector, rewrite=True), "while the index is being built"
        builder.rollback()
        builder.execute(text("SELECT pg_advisory_unlock_all()"))
    assert rewrite_for_erasures(pgvector) == 0
    assert not faces.erasures.not_rewritten_among(ids)
    assert turned not in heap(pgvector)
    assert (found(7), found(8)) == ([], [ids[8]])
    build_index(pgvector)  # or it waits for nothing, because the process does so by itself
    deadline = time.monotonic() + 60
    while not has_index(pgvector):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert (found(7), found(8)) == ([], [ids[8]])


@pytest.mark.slow
def test_an_index_that_was_not_completed_is_replaced(
    pgvector: Engine, tmp_path: Path, clock: Clock
) -> None:
    faces = FaceRepositories.of(Settings(_env_file=None, home=tmp_path), pgvector, clock)
    search = VectorSearch(pgvector, faces.gallery_source, faces.cipher)
    search.prepare()
    with pgvector.begin() as connection:
        broken = "UPDATE pg_index SET indisvalid = false WHERE indexrelid = to_regclass(:name)"
        connection.execute(text(broken), {"name": "face_vectors_nearest"})
    search.prepare()
    assert not has_index(pgvector), "a start does not wait for it"
    build_index(pgvector)
    assert has_index(pgvector)


@pytest.mark.slow
def test_no_statistics_of_vectors_are_kept(pgvector: Engine, tmp_path: Path, clock: Clock) -> None:
    """An earlier release let PostgreSQL collect them: a hundred vectors in `pg_stats`."""
    faces = FaceRepositories.of(Settings(_env_file=None, home=tmp_path), pgvector, clock)
    search = VectorSearch(pgvector, faces.gallery_source, faces.cipher)
    search.prepare()
    for name in "ABC":
        faces.templates.add(add_subject(faces, name), [template()], embedder=NET)
    search.nearest(vector()[None], embedder=NET, min_similarity=0.9, limit=1)

    def collected() -> int:
        with pgvector.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("ANALYZE face_vectors"))
        return int(scalar(pgvector, "SELECT count(*) FROM pg_stats WHERE attname = 'turned'"))

    assert collected() == 0
    with pgvector.begin() as connection:
        connection.execute(text("ALTER TABLE face_vectors ALTER turned SET STATISTICS -1"))
    assert collected() == 1
    search.prepare()
    assert collected() == 0

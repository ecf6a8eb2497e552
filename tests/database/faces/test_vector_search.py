"""The PostgreSQL index: a secret rotation, and the same results as the search in memory."""

from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from sqlalchemy import text

from contracts.faces.subjects import EMBEDDING_SIZE
from contracts.settings import Settings
from database.crypto.envelope import EnvelopeCipher
from database.crypto.master_keys import KeyFile
from database.engine import open_engine
from database.faces.repositories import FaceRepositories
from database.faces.search.gallery import Gallery
from database.faces.search.vector_search import VectorSearch, rotation_matrix
from database.migrations import upgrade
from tests.database.conftest import Clock
from tests.database.faces.test_faces import NET, add_subject, template, vector

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
    running = VectorSearch(Mock(), Mock(), EnvelopeCipher.of(settings))
    before = running._rotation()
    assert running._rotation() is before
    key = KeyFile(settings.face_keys_file).add()
    after = running._rotation()
    assert before.key_id != after.key_id == key.id
    fresh = VectorSearch(Mock(), Mock(), EnvelopeCipher.of(settings))._rotation()
    assert np.array_equal(after.matrix, fresh.matrix)
    assert not np.allclose(after.matrix, before.matrix, atol=0.1)


@pytest.mark.slow
def test_it_finds_what_the_search_in_memory_finds(
    postgresql: str, tmp_path: Path, clock: Clock
) -> None:
    engine = open_engine(postgresql)
    with engine.connect() as connection:
        has = connection.scalar(
            text("SELECT count(*) FROM pg_available_extensions WHERE name = 'vector'")
        )
    if not has:
        engine.dispose()  # the server stops only without connections
        pytest.skip("this PostgreSQL has no pgvector; install e.g. postgresql-17-pgvector")
    upgrade(postgresql)
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
    engine.dispose()

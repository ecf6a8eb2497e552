"""The index of PostgreSQL: a secret rotation, and the same answers as the search in memory."""

from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from sqlalchemy import text

from contracts.faces.subjects import LENGTH
from contracts.settings import Settings
from database.crypto.envelope import Sealer
from database.crypto.master_keys import KeyFile
from database.engine import open_engine
from database.faces.faces import Faces
from database.faces.gallery import Gallery
from database.faces.vector_search import VectorSearch, rotation_of
from database.migrations import upgrade
from tests.database.conftest import Clock
from tests.database.faces.test_faces import NET, made, template, vector

FIRST = (0.02141821, 0.03180816, -0.11114575)


def test_the_rotation_keeps_all_products_and_is_the_secrets_alone() -> None:
    rotation = rotation_of(bytes(32))
    assert np.allclose(rotation @ rotation.T, np.eye(LENGTH), atol=1e-5)
    assert np.array_equal(rotation, rotation_of(bytes(32)))
    # The value is part of what is kept on disks: another one would find nobody there.
    assert rotation[0, :3] == pytest.approx(FIRST, abs=1e-6)
    other = rotation_of(b"x" * 32)
    assert abs(float((rotation * other).sum())) < LENGTH / 4
    one, two = vector(), vector()
    assert float((one @ rotation) @ (two @ rotation)) == pytest.approx(float(one @ two), abs=1e-5)


def test_a_running_process_turns_by_the_key_that_another_one_added(tmp_path: Path) -> None:
    settings = Settings(_env_file=None, home=tmp_path)
    running = VectorSearch(Mock(), Mock(), Sealer.of(settings))
    before = running._turn()
    assert running._turn() is before
    key = KeyFile(settings.face_keys_file).add()
    after = running._turn()
    assert before.key_id != after.key_id == key.id
    fresh = VectorSearch(Mock(), Mock(), Sealer.of(settings))._turn()
    assert np.array_equal(after.rotation, fresh.rotation)
    assert not np.allclose(after.rotation, before.rotation, atol=0.1)


@pytest.mark.slow
def test_it_finds_whom_the_search_in_memory_finds(
    postgresql: str, tmp_path: Path, clock: Clock
) -> None:
    engine = open_engine(postgresql)
    with engine.connect() as connection:
        has = connection.scalar(
            text("SELECT count(*) FROM pg_available_extensions WHERE name = 'vector'")
        )
    if not has:
        engine.dispose()  # the server ends only when nobody is connected
        pytest.skip("this PostgreSQL has no pgvector; install e.g. postgresql-17-pgvector")
    upgrade(postgresql)
    faces = Faces.of(Settings(_env_file=None, home=tmp_path), engine, clock)
    search, exact = VectorSearch(engine, faces.vectors, faces.sealer), Gallery(faces.vectors)
    search.prepare()
    search.prepare()
    shown = [vector() for _ in range(60)]
    ids = [made(faces, f"P{at}") for at in range(20)]
    for at, one in enumerate(ids):
        faces.templates.add(
            one, [template(shown=s) for s in shown[3 * at : 3 * at + 3]], embedder=NET
        )
    asked = np.stack([*shown[:9], *(vector() for _ in range(5))])
    for last in (False, True):
        found = search.nearest(asked, embedder=NET, above=0.1, most=4)
        right = exact.nearest(asked, embedder=NET, above=0.1, most=4)
        for mine, his in zip(found, right, strict=True):
            assert [one.subject_id for one in mine] == [one.subject_id for one in his]
        KeyFile(Settings(_env_file=None, home=tmp_path).face_keys_file).add()
        if not last:
            faces.subjects.erase(ids[0])
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM face_vectors")) == 57
    engine.dispose()

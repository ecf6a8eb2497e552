"""The search in memory finds what a loop finds, and is always up to date with the database."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, text

from contracts.faces.subjects import EMBEDDING_SIZE, Candidate
from contracts.queue.messages import Vector
from contracts.settings import Settings
from database.engine import open_engine
from database.faces.repositories import FaceRepositories
from database.faces.search.gallery import Gallery, Partition
from tests.database.conftest import Clock
from tests.database.faces.test_faces import NET, OLD, add_subject, template, vector
from tests.replica import Replica
from tests.tables import make_tables


@pytest.fixture
def faces(engine: Engine, clock: Clock, tmp_path: Any) -> FaceRepositories:
    return FaceRepositories.of(Settings(_env_file=None, home=tmp_path / "home"), engine, clock)


def near(gallery: Gallery, vector: Vector) -> list[str]:
    (candidates,) = gallery.nearest(vector[None], embedder=NET, min_similarity=0.9, limit=5)
    return [candidate.subject_id for candidate in candidates]


def test_it_finds_what_a_loop_finds_after_random_changes() -> None:
    random = np.random.default_rng(3)
    partition, plain = Partition(), dict[str, Vector]()
    for _ in range(600):
        subject_id = f"sub_{random.integers(60)}"
        count = int(random.integers(0, 40))
        vectors = random.normal(size=(count, EMBEDDING_SIZE)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        partition.put(subject_id, vectors)
        plain[subject_id] = vectors
        if not count:
            del plain[subject_id]
        if random.random() < 0.05:
            retained = set(list(plain)[::2])
            partition.retain(retained)
            plain = {one: plain[one] for one in plain if one in retained}
    assert len(partition) == len(plain)
    assert len(partition.vectors) == sum(map(len, plain.values()))
    whole = partition.vectors.base
    assert whole is not None
    assert not whole[len(partition.vectors) :].any()  # removed rows are overwritten
    queries = random.normal(size=(20, EMBEDDING_SIZE)).astype(np.float32)
    for least, limit in ((0.1, 3), (-1.0, 100), (0.99, 5)):
        results = partition.nearest(queries, min_similarity=least, limit=limit)
        for query, found in zip(queries, results, strict=True):
            best = {name: float((rows @ query).max()) for name, rows in plain.items()}
            ranked = sorted((-s, name) for name, s in best.items() if s >= least)[:limit]
            assert [c.subject_id for c in found] == [name for _, name in ranked]
            assert np.allclose([c.similarity for c in found], [-s for s, _ in ranked], atol=1e-4)


def test_an_empty_partition_finds_no_candidates() -> None:
    assert Partition().nearest(vector()[None], min_similarity=-1, limit=5) == [[]]


def test_every_process_sees_every_change(faces: FaceRepositories) -> None:
    mine, others = Gallery(faces.gallery_source), Gallery(faces.gallery_source)
    ada, shown = add_subject(faces, "Ada"), vector()
    assert near(mine, shown) == near(others, shown) == []
    (first,) = faces.templates.add(ada, [template(embedding=shown)], embedder=NET)
    assert near(mine, shown) == near(others, shown) == [ada]
    new = vector()
    faces.templates.add(ada, [template(embedding=new)], embedder=NET, replacing=[first])
    assert (near(mine, shown), near(mine, new)) == ([], [ada])
    faces.templates.add(ada, [template(embedding=shown)], embedder=OLD)
    assert near(mine, shown) == []
    faces.subjects.erase(ada)
    others.refresh()
    assert len(others.rows) == 0
    assert near(mine, new) == []
    assert mine._known == others._known == {}


@pytest.mark.parametrize("later", [0, 1, 2])
def test_a_failover_that_loses_changes_leaves_no_template_in_memory(
    clock: Clock, tmp_path: Path, later: int
) -> None:
    """Whether the database counts fewer changes than were known, as many, or more."""
    url = f"sqlite:///{tmp_path}/opsin.db"
    make_tables(url)
    engine = open_engine(url)
    faces = FaceRepositories.of(Settings(_env_file=None, home=tmp_path / "home"), engine, clock)
    gallery, kept, lost = Gallery(faces.gallery_source), vector(), vector()
    ada, bea, eve = (add_subject(faces, name) for name in ("Ada", "Bea", "Eve"))
    faces.templates.add(ada, [template(embedding=kept)], embedder=NET)
    replica = Replica(engine, tmp_path)
    faces.templates.add(ada, [template(embedding=lost)], embedder=NET)
    assert (near(gallery, kept), near(gallery, lost)) == ([ada], [ada])
    replica.promote()
    new = {one: vector() for one in (bea, eve)[:later]}
    for one, shown in new.items():
        faces.templates.add(one, [template(embedding=shown)], embedder=NET)
    assert (near(gallery, kept), near(gallery, lost)) == ([ada], [])
    assert [near(gallery, shown) for shown in new.values()] == [[one] for one in new]
    engine.dispose()


def test_a_simultaneous_erasure_and_addition_are_both_seen(faces: FaceRepositories) -> None:
    gallery, (a, b) = Gallery(faces.gallery_source), (vector(), vector())
    ada = add_subject(faces, "Ada")
    faces.templates.add(ada, [template(embedding=a)], embedder=NET)
    assert near(gallery, a) == [ada]
    bea = add_subject(faces, "Bea")
    faces.templates.add(bea, [template(embedding=b)], embedder=NET)
    faces.subjects.erase(ada)
    assert (near(gallery, a), near(gallery, b)) == ([], [bea])


def test_only_changed_subjects_are_decrypted_again(
    faces: FaceRepositories, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery, ids = (
        Gallery(faces.gallery_source),
        [add_subject(faces, f"P{number}") for number in range(4)],
    )
    for one in ids:
        faces.templates.add(one, [template()], embedder=NET)
    gallery.nearest(vector()[None], embedder=NET, min_similarity=0.9, limit=1)
    decrypted: list[str] = []
    real = faces.cipher.decrypt_data_key

    def spy(encrypted: bytes, owner: str) -> Any:
        decrypted.append(owner)
        return real(encrypted, owner)

    monkeypatch.setattr(type(faces.cipher), "decrypt_data_key", lambda _, *of: spy(*of))
    gallery.nearest(vector()[None], embedder=NET, min_similarity=0.9, limit=1)
    assert decrypted == []
    faces.templates.add(ids[2], [template()], embedder=NET)
    decrypted.clear()
    gallery.nearest(vector()[None], embedder=NET, min_similarity=0.9, limit=1)
    assert decrypted == [ids[2]]


def test_a_change_reads_the_revision_of_the_changed_subject_only(
    faces: FaceRepositories, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery, source = Gallery(faces.gallery_source), faces.gallery_source
    ids = [add_subject(faces, f"P{number}") for number in range(4)]
    for one in ids:
        faces.templates.add(one, [template()], embedder=NET)
    near(gallery, vector())
    read: list[dict[str, int]] = []
    real = type(source).revisions

    def spy(*args: Any) -> dict[str, int]:
        read.append(real(*args))
        return read[-1]

    monkeypatch.setattr(type(source), "revisions", spy)
    faces.templates.add(ids[2], [template()], embedder=NET)
    near(gallery, vector())
    assert [list(revisions) for revisions in read] == [[ids[2]]]
    read.clear()
    faces.subjects.erase(add_subject(faces, "without a template"))
    near(gallery, vector())
    assert read == []
    faces.subjects.erase(ids[0])
    near(gallery, vector())
    assert read[-1].keys() == set(ids[1:])


def test_searching_for_another_embedder_replaces_the_templates(faces: FaceRepositories) -> None:
    gallery, shown, ada = Gallery(faces.gallery_source), vector(), add_subject(faces, "Ada")
    faces.templates.add(ada, [template(embedding=shown)], embedder=OLD)
    assert near(gallery, shown) == []
    (found,) = gallery.nearest(shown[None], embedder=OLD, min_similarity=0.9, limit=1)
    assert found == [Candidate(ada, pytest.approx(1, abs=1e-5))]


def test_an_unreadable_template_does_not_affect_other_subjects(
    faces: FaceRepositories, engine: Engine
) -> None:
    gallery, (a, b) = Gallery(faces.gallery_source), (vector(), vector())
    ada, bea = add_subject(faces, "Ada"), add_subject(faces, "Bea")
    faces.templates.add(ada, [template(embedding=a)], embedder=NET)
    faces.templates.add(bea, [template(embedding=b)], embedder=NET)
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE face_templates SET sealed = :junk WHERE subject_id = :ada"),
            {"junk": b"junk", "ada": ada},
        )
    assert (near(gallery, a), near(gallery, b)) == ([], [bea])


def test_the_other_templates_of_a_subject_with_a_damaged_one_are_found(
    faces: FaceRepositories, engine: Engine
) -> None:
    gallery, shown = Gallery(faces.gallery_source), [vector(), vector()]
    ada = add_subject(faces, "Ada")
    ids = faces.templates.add(ada, [template(embedding=one) for one in shown], embedder=NET)
    (first, a), (_, b) = sorted(zip(ids, shown, strict=True), key=lambda pair: pair[0])
    with engine.begin() as connection:
        junk = text("UPDATE face_templates SET sealed = :junk WHERE id = :id")
        connection.execute(junk, {"junk": b"junk", "id": first})
    assert (near(gallery, a), near(gallery, b)) == ([], [ada])


def test_an_erased_subject_is_removed_although_another_is_unreadable(
    faces: FaceRepositories, engine: Engine
) -> None:
    gallery, (a, b) = Gallery(faces.gallery_source), (vector(), vector())
    ada, bea, eve = add_subject(faces, "Ada"), add_subject(faces, "Bea"), add_subject(faces, "Eve")
    for one, shown in ((ada, a), (bea, b), (eve, vector())):
        faces.templates.add(one, [template(embedding=shown)], embedder=NET)
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE subjects SET data_key = :junk WHERE id = :eve"),
            {"junk": b"\x01\x01", "eve": eve},
        )
    assert near(gallery, a) == [ada]
    faces.subjects.erase(ada)
    gallery.refresh()
    assert not (gallery.rows @ a > 0.9).any()
    assert (near(gallery, a), near(gallery, b)) == ([], [bea])

"""The search in memory finds what a plain loop finds, and is never behind the database."""

from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, text

from contracts.faces.subjects import LENGTH, Candidate
from contracts.queue.messages import Vector
from contracts.settings import Settings
from database.faces.faces import Faces
from database.faces.gallery import Gallery, Shelf
from tests.database.conftest import Clock
from tests.database.faces.test_faces import NET, OLD, made, template, vector


@pytest.fixture
def faces(engine: Engine, clock: Clock, tmp_path: Any) -> Faces:
    return Faces.of(Settings(_env_file=None, home=tmp_path / "home"), engine, clock)


def near(gallery: Gallery, shown: Vector, above: float = 0.9) -> list[str]:
    (found,) = gallery.nearest(shown[None], embedder=NET, above=above, most=5)
    return [one.subject_id for one in found]


def test_it_finds_what_a_loop_finds_after_any_changes() -> None:
    random = np.random.default_rng(3)
    shelf, plain = Shelf(), dict[str, Vector]()
    for _ in range(600):
        subject_id = f"sub_{random.integers(60)}"
        count = int(random.integers(0, 40))
        vectors = random.normal(size=(count, LENGTH)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        shelf.put(subject_id, vectors)
        plain[subject_id] = vectors
        if not count:
            del plain[subject_id]
        if random.random() < 0.05:
            kept = set(list(plain)[::2])
            shelf.keep(kept)
            plain = {one: plain[one] for one in plain if one in kept}
    assert len(shelf) == len(plain)
    assert len(shelf.vectors) == sum(map(len, plain.values()))
    whole = shelf.vectors.base
    assert whole is not None
    assert not whole[len(shelf.vectors) :].any()  # rows that went are overwritten
    asked = random.normal(size=(20, LENGTH)).astype(np.float32)
    for above, most in ((0.1, 3), (-1.0, 100), (0.99, 5)):
        for one, found in zip(asked, shelf.nearest(asked, above=above, most=most), strict=True):
            best = {name: float((rows @ one).max()) for name, rows in plain.items()}
            ranked = sorted((-s, name) for name, s in best.items() if s >= above)[:most]
            assert [c.subject_id for c in found] == [name for _, name in ranked]
            assert np.allclose([c.similarity for c in found], [-s for s, _ in ranked], atol=1e-4)


def test_an_empty_shelf_finds_nobody() -> None:
    assert Shelf().nearest(vector()[None], above=-1, most=5) == [[]]


def test_each_change_is_seen_by_every_process(faces: Faces) -> None:
    mine, others = Gallery(faces.vectors), Gallery(faces.vectors)
    ada, shown = made(faces, "Ada"), vector()
    assert near(mine, shown) == near(others, shown) == []
    (first,) = faces.templates.add(ada, [template(shown=shown)], embedder=NET)
    assert near(mine, shown) == near(others, shown) == [ada]
    new = vector()
    faces.templates.add(ada, [template(shown=new)], embedder=NET, replacing=[first])
    assert (near(mine, shown), near(mine, new)) == ([], [ada])
    faces.templates.add(ada, [template(shown=shown)], embedder=OLD)
    assert near(mine, shown) == []
    faces.subjects.erase(ada)
    others.forget()
    assert len(others.rows) == 0
    assert near(mine, new) == []


def test_who_is_erased_and_who_is_added_at_once_are_both_seen(faces: Faces) -> None:
    gallery, (a, b) = Gallery(faces.vectors), (vector(), vector())
    ada = made(faces, "Ada")
    faces.templates.add(ada, [template(shown=a)], embedder=NET)
    assert near(gallery, a) == [ada]
    bea = made(faces, "Bea")
    faces.templates.add(bea, [template(shown=b)], embedder=NET)
    faces.subjects.erase(ada)
    assert (near(gallery, a), near(gallery, b)) == ([], [bea])


def test_only_who_changed_is_opened_again(faces: Faces, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery, ids = Gallery(faces.vectors), [made(faces, f"P{at}") for at in range(4)]
    for one in ids:
        faces.templates.add(one, [template()], embedder=NET)
    gallery.nearest(vector()[None], embedder=NET, above=0.9, most=1)
    opened: list[str] = []
    real = faces.sealer.open_data_key

    def spy(sealed: bytes, owner: str) -> Any:
        opened.append(owner)
        return real(sealed, owner)

    monkeypatch.setattr(type(faces.sealer), "open_data_key", lambda _, *of: spy(*of))
    gallery.nearest(vector()[None], embedder=NET, above=0.9, most=1)
    assert opened == []
    faces.templates.add(ids[2], [template()], embedder=NET)
    opened.clear()
    gallery.nearest(vector()[None], embedder=NET, above=0.9, most=1)
    assert opened == [ids[2]]


def test_another_embedders_templates_take_the_place_of_these(faces: Faces) -> None:
    gallery, shown, ada = Gallery(faces.vectors), vector(), made(faces, "Ada")
    faces.templates.add(ada, [template(shown=shown)], embedder=OLD)
    assert near(gallery, shown) == []
    (found,) = gallery.nearest(shown[None], embedder=OLD, above=0.9, most=1)
    assert found == [Candidate(ada, pytest.approx(1, abs=1e-5))]


def test_a_row_that_cannot_be_opened_costs_nobody_else(faces: Faces, engine: Engine) -> None:
    gallery, (a, b) = Gallery(faces.vectors), (vector(), vector())
    ada, bea = made(faces, "Ada"), made(faces, "Bea")
    faces.templates.add(ada, [template(shown=a)], embedder=NET)
    faces.templates.add(bea, [template(shown=b)], embedder=NET)
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE face_templates SET sealed = :junk WHERE subject_id = :ada"),
            {"junk": b"junk", "ada": ada},
        )
    assert (near(gallery, a), near(gallery, b)) == ([], [bea])


def test_who_is_erased_is_forgotten_though_another_cannot_be_opened(
    faces: Faces, engine: Engine
) -> None:
    gallery, (a, b) = Gallery(faces.vectors), (vector(), vector())
    ada, bea, eve = made(faces, "Ada"), made(faces, "Bea"), made(faces, "Eve")
    for one, shown in ((ada, a), (bea, b), (eve, vector())):
        faces.templates.add(one, [template(shown=shown)], embedder=NET)
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE subjects SET data_key = :junk WHERE id = :eve"),
            {"junk": b"\x01\x01", "eve": eve},
        )
    assert near(gallery, a) == [ada]
    faces.subjects.erase(ada)
    gallery.forget()
    assert not (gallery.rows @ a > 0.9).any()
    assert (near(gallery, a), near(gallery, b)) == ([], [bea])

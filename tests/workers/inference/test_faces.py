"""The lane `faces` of a real network, without the queue around it."""

import time
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest

from contracts.errors import DeadlineExceeded, Draining
from contracts.faces.faces import FacesAsk, FacesNote
from contracts.queue.messages import Item, Pixels, Vector
from models.faces.detection.finder import FaceFinder, open_finder
from models.weights.catalog import Weights, WeightsMissing
from tests.models.faces.pictures import read
from workers.inference.faces import Faces
from workers.inference.queue import LaneName

LANE = LaneName("face_embedder", 1, "faces")


class Lengths:
    """Stands in for the embedder: an embedding is the mean color, four times."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def run(self, operation: str, images: Pixels) -> Vector:
        assert operation == "embed"
        self.batches.append(len(images))
        return np.tile(images.mean(axis=(1, 2), dtype=np.float32), 4)


@pytest.fixture(scope="module")
def finder(fetched: Path) -> FaceFinder:
    try:
        return open_finder(Weights(fetched / "weights", None, True), threads=1)
    except WeightsMissing as missing:
        pytest.skip(missing.detail)


def faces_of(finder: FaceFinder, **changes: Any) -> Faces:
    options = {"is_abandoned": lambda _: False, "stopping": Event()} | changes
    return Faces(lambda: finder, **options)


def item_of(picture: Pixels, ask: FacesAsk, *, seconds: float = 60) -> Item:
    now = time.time()
    return Item(bytes(16), now + seconds, now, "replies:test", picture, note=ask.pack())


@pytest.fixture(scope="module")
def two(shared: Path) -> Pixels:
    """Two people beside each other, the left one larger."""
    left = read(shared / "data/caltech-faces/person01/image_0001.jpg")[:250, :250]
    right = read(shared / "data/caltech-faces/person02/image_0047.jpg")[:250:2, :250:2]
    both = np.full((250, 250 + right.shape[1], 3), 128, np.uint8)
    both[: left.shape[0], : left.shape[1]] = left
    both[60 : 60 + right.shape[0], 250:] = right
    return both


@pytest.mark.shared
def test_faces_and_embeddings_come_in_one_order(finder: FaceFinder, two: Pixels) -> None:
    embedder, way = Lengths(), []
    answer = faces_of(finder)
    items = [item_of(two, FacesAsk(embed=True)), item_of(two[:, ::-1], FacesAsk(embed=True))]
    told = answer(LANE, embedder, items, lambda: way.append(1))  # type: ignore[arg-type]
    notes = [FacesNote.model_validate_json(one.note) for one in told]
    assert [note.total for note in notes] == [2, 2]
    assert way == [1], "between two pictures the others may go first"
    for note, one in zip(notes, told, strict=True):
        assert note.faces[0].quality.size > note.faces[1].quality.size
        assert one.vector.shape == (2 * 12,)
        assert one.vector.dtype == np.float32
    assert notes[0].faces[0].box.x < 150 < 250 < notes[0].faces[1].box.x
    assert notes[1].faces[1].box.x < notes[1].faces[0].box.x
    assert embedder.batches == [2, 2], "the faces of a picture run together"


@pytest.mark.shared
def test_no_embeddings_unless_asked_for_and_no_more_than_asked_for(
    finder: FaceFinder, two: Pixels
) -> None:
    embedder = Lengths()
    answer = faces_of(finder)
    (told,) = answer(LANE, embedder, [item_of(two, FacesAsk(most=1))], list)  # type: ignore[arg-type]
    note = FacesNote.model_validate_json(told.note)
    assert (len(note.faces), note.total) == (1, 2)
    assert told.vector.shape == (0,)
    nobody = np.full((40, 50, 3), 90, np.uint8)
    ask = FacesAsk(embed=True)
    (told,) = answer(LANE, embedder, [item_of(nobody, ask)], list)  # type: ignore[arg-type]
    assert FacesNote.model_validate_json(told.note) == FacesNote(faces=(), total=0)
    assert told.vector.shape == (0,)
    assert embedder.batches == []


@pytest.mark.parametrize(
    ("changes", "seconds", "error"),
    [
        ({"stopping": Event()}, 60, Draining),
        ({"is_abandoned": lambda _: True}, 60, DeadlineExceeded),
        ({}, -1, DeadlineExceeded),
    ],
)
def test_it_stops_where_nobody_waits(
    finder: FaceFinder, changes: dict[str, Any], seconds: float, error: type[Exception]
) -> None:
    if "stopping" in changes:
        changes["stopping"].set()
    blank = np.zeros((20, 20, 3), np.uint8)
    items = [item_of(blank, FacesAsk(), seconds=seconds)] * 2
    with pytest.raises(error):
        faces_of(finder, **changes)(LANE, Lengths(), items, list)  # type: ignore[arg-type]


def test_missing_weights_are_told_before_anything_is_served(tmp_path: Path) -> None:
    faces = Faces(
        lambda: open_finder(Weights(tmp_path, None, True), threads=1),
        is_abandoned=lambda _: False,
        stopping=Event(),
    )
    with pytest.raises(WeightsMissing, match="opsin weights pull face_finder"):
        faces.prepare()

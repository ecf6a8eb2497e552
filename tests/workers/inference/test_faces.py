"""The operation `faces` with a real face finder, without the queue."""

import time
from base64 import b64decode
from pathlib import Path

import numpy as np
import pytest

from contracts.errors import DeadlineExceeded, Draining
from contracts.faces.faces import FacesReply, FacesRequest
from contracts.queue.messages import Item, Pixels, Vector
from contracts.queue.redis_keys import QueueName
from models.faces.detection.finder import FaceFinder, open_finder
from models.faces.portrait import crop_portrait
from models.weights.catalog import Weights, WeightsMissing
from tests.models.faces.images import read
from tests.workers.inference.cancellation import cancellation_of
from workers.inference.faces import FacesOperation

QUEUE = QueueName("face_embedder", 1, "faces")


class MeanColors:
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


def faces_of(finder: FaceFinder, **changes: bool) -> FacesOperation:
    return FacesOperation(lambda: finder, cancellation_of(**changes))


def item_of(image: Pixels, request: FacesRequest, *, seconds: float = 60) -> Item:
    now = time.time()
    return Item(bytes(16), now + seconds, now, "replies:test", image, note=request.pack())


@pytest.fixture(scope="module")
def two(shared: Path) -> Pixels:
    """Two people next to each other, the left one larger."""
    left = read(shared / "data/caltech-faces/person01/image_0001.jpg")[:250, :250]
    right = read(shared / "data/caltech-faces/person02/image_0047.jpg")[:250:2, :250:2]
    both = np.full((250, 250 + right.shape[1], 3), 128, np.uint8)
    both[: left.shape[0], : left.shape[1]] = left
    both[60 : 60 + right.shape[0], 250:] = right
    return both


@pytest.mark.shared
def test_faces_and_embeddings_have_the_same_order(finder: FaceFinder, two: Pixels) -> None:
    embedder, yielded = MeanColors(), []
    faces = faces_of(finder)
    items = [
        item_of(two, FacesRequest(embed=True)),
        item_of(two[:, ::-1], FacesRequest(embed=True)),
    ]
    outputs = faces.compute(QUEUE, embedder, items, lambda: yielded.append(1))  # type: ignore[arg-type]
    notes = [FacesReply.model_validate_json(output.note) for output in outputs]
    assert [note.total for note in notes] == [2, 2]
    assert yielded == [1], "between two images, faster queues may run"
    for note, output in zip(notes, outputs, strict=True):
        assert note.faces[0].quality.size > note.faces[1].quality.size
        assert output.vector.shape == (2 * 12,)
        assert output.vector.dtype == np.float32
    assert notes[0].faces[0].box.x < 150 < 250 < notes[0].faces[1].box.x
    assert notes[1].faces[1].box.x < notes[1].faces[0].box.x
    assert embedder.batches == [2, 2], "the faces of one image run together"


@pytest.mark.shared
def test_request_decides_about_embeddings_and_number_of_faces(
    finder: FaceFinder, two: Pixels
) -> None:
    embedder = MeanColors()
    faces = faces_of(finder)
    (output,) = faces.compute(QUEUE, embedder, [item_of(two, FacesRequest(max_faces=1))], list)  # type: ignore[arg-type]
    note = FacesReply.model_validate_json(output.note)
    assert (len(note.faces), note.total) == (1, 2)
    assert output.vector.shape == (0,)
    no_faces = np.full((40, 50, 3), 90, np.uint8)
    request = FacesRequest(embed=True)
    (output,) = faces.compute(QUEUE, embedder, [item_of(no_faces, request)], list)  # type: ignore[arg-type]
    assert FacesReply.model_validate_json(output.note) == FacesReply(faces=(), total=0)
    assert output.vector.shape == (0,)
    assert embedder.batches == []


@pytest.mark.parametrize(
    ("changes", "seconds", "error"),
    [
        ({"stopping": True}, 60, Draining),
        ({"abandoned": True}, 60, DeadlineExceeded),
        ({}, -1, DeadlineExceeded),
    ],
)
def test_operation_stops_when_no_client_waits(
    finder: FaceFinder, changes: dict[str, bool], seconds: float, error: type[Exception]
) -> None:
    blank = np.zeros((20, 20, 3), np.uint8)
    items = [item_of(blank, FacesRequest(), seconds=seconds)] * 2
    with pytest.raises(error):
        faces_of(finder, **changes).compute(QUEUE, MeanColors(), items, list)  # type: ignore[arg-type]


def test_missing_weights_are_reported(tmp_path: Path) -> None:
    faces = FacesOperation(
        lambda: open_finder(Weights(tmp_path, None, True), threads=1), cancellation_of()
    )
    with pytest.raises(WeightsMissing, match="opsin weights pull face_finder"):
        faces.finder()


@pytest.mark.shared
def test_the_largest_face_is_cropped_as_for_a_training(finder: FaceFinder, two: Pixels) -> None:
    items = [item_of(two, FacesRequest(portrait=True))]
    (output,) = faces_of(finder).compute(QUEUE, MeanColors(), items, list)  # type: ignore[arg-type]
    reply = FacesReply.model_validate_json(output.note)
    assert reply.portrait is not None
    assert b64decode(reply.portrait) == crop_portrait(two, reply.faces[0].box)

from pathlib import Path

import cv2
import numpy as np
import pytest

from models.faces.detection.detection import DetectedFace
from models.faces.detection.finder import FaceFinder
from tests.models.faces.images import read

pytestmark = pytest.mark.shared


def frames(file: Path) -> list[np.ndarray]:
    video, frames = cv2.VideoCapture(str(file)), []
    while True:
        succeeded, frame = video.read()
        if not succeeded:
            return frames
        frames.append(np.ascontiguousarray(frame[:, :, ::-1]))


def only_face(finder: FaceFinder, image: np.ndarray) -> DetectedFace:
    (found,) = finder.find(image, 8).faces
    return found


def test_every_portrait_has_one_face_with_plausible_landmarks(
    finder: FaceFinder, people: list[Path], shared: Path
) -> None:
    color = sorted((shared / "data/caltech-faces").glob("*/*.jpg"))[::12]
    filled = sorted((shared / "data/att-faces").glob("*/05.png"))
    for file in (*people, *color, *filled):
        face = only_face(finder, read(file)).face
        marks = face.landmarks
        assert list(marks) == [
            "right_eye",
            "left_eye",
            "nose",
            "mouth_right",
            "mouth_left",
            "chin",
        ]
        assert marks["right_eye"].x < marks["nose"].x < marks["left_eye"].x, file
        assert marks["mouth_right"].x < marks["mouth_left"].x
        assert marks["left_eye"].y < marks["nose"].y < marks["mouth_left"].y < marks["chin"].y
        box = face.box
        assert box.x < marks["right_eye"].x < marks["left_eye"].x < box.x + box.width
        assert marks["chin"].y == pytest.approx(box.y + box.height, abs=0.1 * box.height)


def test_three_walking_people_are_counted(finder: FaceFinder, shared: Path) -> None:
    counts = [
        finder.find(frame, 8).total
        for frame in frames(shared / "data/face-videos/three-people-walking.mp4")[::5]
    ]
    assert max(counts) == 3
    assert min(counts) >= 1


def test_images_without_a_face_give_none(finder: FaceFinder, shared: Path) -> None:
    for frame in frames(shared / "data/face-videos/no_face.mp4")[::12]:
        assert finder.find(frame, 8).faces == []
    things = sorted((shared / "data/imagenet-samples").glob("n0[2-4]*.JPEG"))[:20]
    result = sum(len(finder.find(read(file), 8).faces) for file in things)
    assert result <= 2, "a few images of things show people too"


@pytest.mark.parametrize("shape", [(1, 1), (3, 2000), (2000, 3), (40, 50)])
def test_any_image_shape_is_accepted(finder: FaceFinder, shape: tuple[int, int]) -> None:
    assert finder.find(np.full((*shape, 3), 90, np.uint8), 8).total == 0


def test_small_faces_in_a_large_image_are_found_in_tiles(
    finder: FaceFinder, people: list[Path]
) -> None:
    """Eight faces with eyes 22 pixels apart, in 1280 x 960: for the detector, 3 pixels."""
    image = np.full((960, 1280, 3), 120, np.uint8)
    for number, file in enumerate(people[:8]):
        portrait = read(file)
        scale = 22 / only_face(finder, portrait).face.quality.size
        small = cv2.resize(portrait, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        top, left = 100 + 400 * (number // 4), 60 + 300 * (number % 4)
        image[top : top + small.shape[0], left : left + small.shape[1]] = small[:380, :290]
    assert finder.find(image, 32).total >= 7
    at_once = cv2.resize(image, (192, 144), interpolation=cv2.INTER_AREA)
    assert finder.find(at_once, 32).total <= 2, "otherwise tiles would not be needed"


def test_the_largest_face_comes_first_and_the_rest_are_counted(
    finder: FaceFinder, people: list[Path]
) -> None:
    large, small = read(people[0]), read(people[10])
    small = cv2.resize(small, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    height = max(large.shape[0], small.shape[0])
    both = np.zeros((height, large.shape[1] + small.shape[1], 3), np.uint8)
    both[: small.shape[0], : small.shape[1]] = small
    both[: large.shape[0], small.shape[1] :] = large
    result = finder.find(both, 1)
    assert result.total == 2
    assert [face.face.box.x > small.shape[1] for face in result.faces] == [True]
    assert result.crops.shape == (1, 150, 150, 3)


def test_results_for_large_images_are_in_their_own_pixels(
    finder: FaceFinder, people: list[Path]
) -> None:
    image = read(people[0])
    large = cv2.resize(image, None, fx=5, fy=5, interpolation=cv2.INTER_CUBIC)
    small, found = only_face(finder, image), only_face(finder, np.asarray(large, np.uint8))
    assert max(large.shape) > 1280
    assert found.face.box.width == pytest.approx(5 * small.face.box.width, rel=0.06)
    assert found.face.quality.size == pytest.approx(5 * small.face.quality.size, rel=0.06)


def test_a_crop_has_the_eyes_where_the_embedder_expects_them(
    finder: FaceFinder, people: list[Path]
) -> None:
    image = read(people[0])
    turned = np.ascontiguousarray(np.rot90(image))
    for oriented in (image, turned):
        again = only_face(finder, only_face(finder, oriented).crop).face.landmarks
        assert again["right_eye"].x == pytest.approx(47.6, abs=5)
        assert again["left_eye"].x == pytest.approx(100.3, abs=5)
        assert again["right_eye"].y == pytest.approx(47.1, abs=5)
        assert again["left_eye"].y == pytest.approx(47.1, abs=5)


def test_a_face_is_tracked_without_being_detected_again(finder: FaceFinder, shared: Path) -> None:
    video = frames(shared / "data/face-videos/single_face.mp4")
    face = only_face(finder, video[0])
    for frame in video[1:30:3]:
        tracked = finder.track(frame, face)
        assert tracked is not None
        found = only_face(finder, frame).face
        assert tracked.face.box.x == pytest.approx(found.box.x, abs=0.08 * found.box.width)
        assert tracked.face.box.width == pytest.approx(found.box.width, rel=0.08)
        face = tracked
    assert finder.track(np.zeros_like(video[0]), face) is None

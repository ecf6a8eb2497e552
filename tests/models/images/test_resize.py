"""Compares the one-step crop with the two-step way, also for shapes which that cannot handle."""

import numpy as np
import pytest
from PIL import Image

from contracts.inference.inference import Resize
from contracts.inference.manifest import Geometry
from models.images.decode import InputSpec
from models.images.resize import ORIENTATIONS, UPRIGHT, fit, preparation, visible_box

IMAGENET = InputSpec((224, 224), 256)


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(
        np.random.default_rng(7).integers(0, 256, (height, width, 3), dtype=np.uint8)
    )


def two_steps(image: Image.Image, target: int, short_side: int) -> Image.Image:
    """Resize the image, then crop, which is how the published accuracies were measured."""
    width, height = image.size
    short = min(image.size)
    size = (short_side * width // short, short_side * height // short)
    left, top = round((size[0] - target) / 2), round((size[1] - target) / 2)
    resized = image.resize(size, Image.Resampling.BILINEAR)
    return resized.crop((left, top, left + target, top + target))


@pytest.mark.parametrize("target", [224, 227])
@pytest.mark.parametrize(
    "size", [(500, 375), (375, 500), (256, 256), (257, 300), (1024, 768), (3000, 401), (90, 60)]
)
def test_one_step_equals_two_steps(size: tuple[int, int], target: int) -> None:
    image = noise(*size)
    once = fit(image, network=InputSpec((target, target), 256), resize=None, orientation=UPRIGHT)
    twice = two_steps(image, target, 256)
    assert np.abs(np.asarray(once).astype(int) - np.asarray(twice)).max() <= 1


@pytest.mark.parametrize("size", [(1, 1), (1, 10_000), (10_000, 1), (7, 9999), (2, 3)])
def test_the_box_lies_inside_the_image(size: tuple[int, int]) -> None:
    left, top, right, bottom = visible_box(size, IMAGENET, "crop")
    assert 0 <= left < right <= size[0]
    assert 0 <= top < bottom <= size[1]
    image = Image.new("RGB", size, (1, 2, 3))
    small = fit(image, network=IMAGENET, resize="crop", orientation=UPRIGHT)
    assert small.getcolors() == [(224 * 224, (1, 2, 3))]


@pytest.mark.parametrize("number", ORIENTATIONS)
def test_stored_box_shows_the_same_as_the_upright_box(number: int) -> None:
    orientation = ORIENTATIONS[number]
    stored = noise(31, 20)
    upright = stored if orientation.method is None else stored.transpose(orientation.method)
    assert orientation.upright_size(stored.size) == upright.size
    box = (3, 5, 14, 9)
    inside = stored.crop(orientation.stored_box(box, stored.size))  # type: ignore[arg-type]
    turned = inside if orientation.method is None else inside.transpose(orientation.method)
    assert turned.tobytes() == upright.crop(box).tobytes()


def test_squash_keeps_the_whole_image() -> None:
    image = noise(300, 100)
    network = InputSpec((32, 64), 256)
    squashed = fit(image, network=network, resize="squash", orientation=UPRIGHT)
    whole = np.asarray(image.resize((64, 32), Image.Resampling.BILINEAR))
    assert np.abs(np.asarray(squashed).astype(int) - whole).max() <= 1


@pytest.mark.parametrize(
    ("size", "input_size", "box"),
    [
        ((50, 70), (70, 50), (0, 0, 50, 70)),
        ((100, 140), (70, 50), (0, 0, 100, 140)),
        ((140, 100), (70, 50), (34.3, 0, 105.7, 100)),
        ((300, 300), (32, 64), (0, 75, 300, 225)),
        ((640, 480), (224, 224), (80, 0, 560, 480)),
    ],
)
def test_cover_cuts_only_what_the_other_proportions_force(
    size: tuple[int, int], input_size: tuple[int, int], box: tuple[float, ...]
) -> None:
    found = visible_box(size, InputSpec(input_size, max(input_size), "cover"), None)
    pixel = max(size[0] / input_size[1], size[1] / input_size[0])
    assert found == pytest.approx(box, abs=pixel)


@pytest.mark.parametrize(
    ("geometry", "sent", "expected"),
    [
        ("short_side", None, "short_side"),
        ("short_side", "crop", "short_side"),
        ("cover", "squash", "squash"),
        ("squash", None, "squash"),
        ("squash", "crop", "cover"),
    ],
)
def test_a_client_may_ask_for_another_way_than_the_training_had(
    geometry: Geometry, sent: Resize | None, expected: Geometry
) -> None:
    network = InputSpec((70, 50), 70, geometry)
    assert visible_box((300, 200), network, sent) == visible_box(
        (300, 200), InputSpec((70, 50), 70, expected), None
    )


@pytest.mark.parametrize("sent", [None, "crop", "squash"])
@pytest.mark.parametrize("short_side", [60, 80])
@pytest.mark.parametrize("geometry", ["short_side", "cover", "squash"])
def test_equal_preparation_gives_equal_pixels(
    geometry: Geometry, short_side: int, sent: Resize | None
) -> None:
    image, first = noise(300, 90), InputSpec((50, 50), 60, "short_side")
    second = InputSpec((50, 50), short_side, geometry)
    one, other = (
        np.asarray(fit(image, network=network, resize=sent, orientation=UPRIGHT))
        for network in (first, second)
    )
    is_equal = preparation(first, sent) == preparation(second, sent)
    assert is_equal == np.array_equal(one, other)

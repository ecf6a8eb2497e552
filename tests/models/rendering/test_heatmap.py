import io

import numpy as np
import pytest
from PIL import Image

from models.images.decode import decode_upright
from models.rendering.colormaps import COLORMAPS, colors_of
from models.rendering.heatmap import HeatmapLayer, RenderOptions, render
from models.rendering.legend import font_of, shortened, wrapped

JET = RenderOptions("overlay", "jet", 1.0, legend=False)
CORNER = HeatmapLayer(np.array([[1, 0], [0, 0]], np.float32), "corner")


def stored(orientation: int = 1, size: tuple[int, int] = (60, 40)) -> bytes:
    exif = Image.Exif()
    exif[274] = orientation
    file = io.BytesIO()
    Image.new("RGB", size, (90, 90, 90)).save(file, "JPEG", exif=exif)
    return file.getvalue()


def drawn(
    data: bytes | Image.Image, size: tuple[int, int], look: RenderOptions = JET, **options: object
) -> np.ndarray:
    given = {"box": (0, 0, *size), "max_pixels": 10**6, "layers": [CORNER]} | options
    layers = given.pop("layers")
    png = render(data, layers, size=size, options=look, **given)
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def test_overlay_is_drawn_on_the_upright_image() -> None:
    """Orientation 6: the stored pixels are turned clockwise to be seen."""
    seen = drawn(stored(6), (40, 60))
    assert seen.shape == (60, 40, 3)
    red, blue = seen[5, 5], seen[55, 35]
    assert red[0] > 100 > red[2]
    assert blue[2] > 100 > blue[0]


def test_decoded_image_gives_the_same_overlay_as_its_file() -> None:
    data = stored(6)
    ready = decode_upright(data, max_pixels=10**6)
    np.testing.assert_array_equal(drawn(ready, (40, 60)), drawn(data, (40, 60)))


def test_compact_file_is_smaller_with_equal_pixels() -> None:
    ramp = Image.linear_gradient("L").resize((300, 200)).convert("RGB")
    files = [
        render(
            ramp.copy(),
            [CORNER],
            size=ramp.size,
            box=(0, 0, *ramp.size),
            options=RenderOptions("overlay", "jet", 0.5, legend=False, compact=compact),
            max_pixels=10**6,
        )
        for compact in (False, True)
    ]
    assert len(files[1]) < len(files[0]) / 2
    quick, small = (np.asarray(Image.open(io.BytesIO(file))) for file in files)
    np.testing.assert_array_equal(quick, small)


def test_large_overlay_is_always_compact() -> None:
    side = 1500
    look = RenderOptions("overlay", "jet", 0.5, legend=False)
    plain = Image.new("RGB", (side, side), (90, 90, 90))
    box = (0, 0, side, side)
    file = render(plain, [CORNER], size=plain.size, box=box, options=look, max_pixels=10**7)
    assert len(file) < side * side * 3 / 2


@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
def test_alpha_blends_image_and_heatmap(alpha: float) -> None:
    gray = drawn(stored(), (60, 40), RenderOptions("overlay", "gray", alpha, legend=False))
    zero = gray[38, 58]
    assert zero == pytest.approx(90 * (1 - alpha), abs=2)


def test_region_outside_the_crop_stays_plain() -> None:
    seen = drawn(stored(), (60, 40), box=(20, 10, 40, 30))
    assert (abs(seen[:9] - 90) <= 2).all()
    assert (abs(seen[:, :19] - 90) <= 2).all()
    assert abs(seen[12, 22] - 90).max() > 30


def test_map_alone_needs_no_image() -> None:
    alone = drawn(
        b"no picture", (60, 40), RenderOptions("map", "jet", 0.5, legend=False), box=(0, 0, 40, 40)
    )
    assert alone.shape == (40, 60, 3)
    assert not alone[:, 41:].any()
    assert alone[5, 5][0] > 100 > alone[5, 5][2]


def test_several_heatmaps_are_side_by_side_within_the_limit() -> None:
    both = drawn(stored(), (60, 40), layers=[CORNER, CORNER])
    assert both.shape == (40, 128, 3)
    small = drawn(stored(), (60, 40), layers=[CORNER] * 4, max_pixels=2400)
    assert small.shape[0] * small.shape[1] < 2400 * 1.7, "the gaps are all that is added"


def test_legend_adds_lines_with_every_color() -> None:
    plain = drawn(stored(size=(300, 200)), (300, 200))
    whole = drawn(
        stored(size=(300, 200)), (300, 200), RenderOptions("overlay", "jet", 1.0, legend=True)
    )
    assert whole.shape[0] > plain.shape[0]
    assert whole.shape[1] == plain.shape[1]
    foot = whole[-15:].reshape(-1, 3)
    assert (foot[:, 0] - foot[:, 2]).max() > 100
    assert (foot[:, 2] - foot[:, 0]).max() > 100


def test_long_title_is_shortened() -> None:
    font = font_of(12)
    text = shortened("a very long class name, and then some", font, 80)
    assert text.endswith("…")
    assert font.getlength(text) <= 80
    assert shortened("ok", font, 80) == "ok"
    assert shortened("ok", font, 1) == ""


@pytest.mark.parametrize("name", COLORMAPS)
def test_colors_match_matplotlib(name: str) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    wanted = matplotlib.colormaps[name](np.linspace(0, 1, 256))[:, :3] * 255
    assert np.abs(colors_of(name).astype(float) - wanted).max() <= 4


def test_long_title_wraps() -> None:
    font = font_of(10)
    title = "Egyptian cat 68.9%, grad_cam, deletion 0.12, insertion 0.83"
    lines = wrapped(title, font, 190)
    assert " ".join(lines) == title
    assert len(lines) > 1
    assert all(font.getlength(line) <= 190 for line in lines)
    assert wrapped("cat", font, 190) == ["cat"]
    assert "".join(wrapped("incomprehensibilities", font, 40)).endswith("…")


def test_images_with_different_titles_are_aligned_at_the_bottom() -> None:
    plain = Image.new("RGB", (100, 50), "white")
    look = RenderOptions("overlay", "jet", 0.5, legend=True)
    layers = [
        HeatmapLayer(CORNER.grid, "cat"),
        HeatmapLayer(CORNER.grid, "a cat that is told of at length"),
    ]
    data = render(
        plain, layers, size=(100, 50), box=(0, 0, 100, 50), options=look, max_pixels=10**6
    )
    seen = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    left, right = seen[:, :100], seen[:, 108:]
    np.testing.assert_array_equal(left[-60:], right[-60:])


def test_image_shown_several_times_is_reduced_before_drawing() -> None:
    seen = drawn(stored(1, (400, 200)), (400, 200), layers=[CORNER] * 8, max_pixels=80_000)
    assert seen.shape == (70, 8 * (141 + 8) - 8, 3)


def test_check_stops_the_drawing() -> None:
    calls = []

    def check() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        drawn(stored(1), (40, 60), layers=[CORNER] * 8, check=check)
    assert len(calls) == 3

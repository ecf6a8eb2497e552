import io
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image

from contracts.errors import InvalidImage
from contracts.inference.explanation import Method
from contracts.settings import Settings
from contracts.work import WorkStoppedError
from models.explain.heatmap_job import run
from models.explain.heatmap_request import input_file_name
from tests.models import keras_warnings
from tests.models.builders import in_another, in_one_row, in_sequence
from tests.models.explain.kept import Kept
from tests.models.explain.versions import published, tiny

pytestmark = keras_warnings.ignored


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    published(home / "store", tiny())
    pixels = np.random.default_rng(8).integers(0, 256, (24, 32, 3), np.uint8)
    Image.fromarray(pixels).save(home / input_file_name(0), "PNG")
    (home / input_file_name(1)).write_bytes(b"no picture")
    return home


def request(
    *names: str,
    classes: tuple[int, ...] = (0, 2),
    model: str = "tiny",
    method: Method = "occlusion",
) -> dict[str, Any]:
    return {
        "model": model,
        "version": 1,
        "question": {"method": method},
        "classes": list(classes),
        "resize": "crop",
        "look": {"shown": "overlay", "colormap": "jet", "alpha": 0.5, "legend": False},
        "names": list(names),
    }


def test_a_slow_map_tells_how_far_it_is_within_one_image(home: Path) -> None:
    work = Kept(request("a.png"), home)
    result = run(work, Settings(home=home))
    assert [one["target"]["index"] for one in result["maps"]] == [0, 2]
    assert result["method"] == "occlusion"
    assert "layer" not in result, "it looks at the pixels"
    kind, content = work.files["heatmap-000.png"]
    assert kind == "image/png"
    assert Image.open(io.BytesIO(content)).height == 24
    assert work.told == sorted(work.told)
    assert len({told for told in work.told if 0 < told < 0.5}) > 1, "inside the first of two"
    assert work.told[-1] == 1


def test_a_cancel_ends_it_within_an_image(home: Path) -> None:
    work = Kept(request("a.png"), home, checks=2)
    with pytest.raises(WorkStoppedError):
        run(work, Settings(home=home))
    assert not work.files
    assert max(work.told) < 0.5


def test_an_image_that_is_none_spoils_no_other(home: Path) -> None:
    result = run(Kept(request("a.png", "b.png", classes=()), home), Settings(home=home))
    first, second = result["results"]
    assert first["target"]["space"] == "logit"
    assert second["error"]["code"] == "invalid_image"
    (home / "alone").mkdir(exist_ok=True)
    (home / "alone" / input_file_name(0)).write_bytes(b"no picture")
    with pytest.raises(InvalidImage):
        run(Kept(request("b.png"), home / "alone"), Settings(home=home))


@pytest.mark.parametrize("last", [(3, "softmax"), (1, "sigmoid")])
def test_a_network_is_explained_however_it_was_put_together(
    last: tuple[int, str], home: Path
) -> None:
    found: dict[Method, list[Any]] = {"grad_cam": [], "layer_cam": []}
    for build in (in_one_row, in_another, in_sequence):
        keras.utils.set_random_seed(8)
        name = f"{build.__name__}-{last[1]}"
        published(home / "store", build(layers.Dense(*last, name="predictions")), name)
        for method, grids in found.items():
            asked = request("a.png", classes=(0, 1), model=name, method=method)
            maps = run(Kept(asked, home), Settings(home=home))["maps"]
            assert [one["target"]["index"] for one in maps] == [0, 1]
            grids.append([one["grid"]["values"] for one in maps])
    for method, (flat, nested, sequence) in found.items():
        assert np.any(flat), method
        np.testing.assert_allclose(nested, flat, atol=1e-5)
        np.testing.assert_allclose(sequence, flat, atol=1e-5)

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
from tests.models.builders import as_functional, as_nested, as_sequential
from tests.models.explain.recording_work import RecordingWork
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


def test_slow_method_reports_progress_within_an_image(home: Path) -> None:
    work = RecordingWork(request("a.png"), home)
    result = run(work, Settings(home=home))
    assert [one["target"]["index"] for one in result["maps"]] == [0, 2]
    assert result["method"] == "occlusion"
    assert "layer" not in result, "it looks at the pixels"
    kind, content = work.files["heatmap-000.png"]
    assert kind == "image/png"
    assert Image.open(io.BytesIO(content)).height == 24
    assert work.fractions == sorted(work.fractions)
    assert len({fraction for fraction in work.fractions if 0 < fraction < 0.5}) > 1, (
        "inside the first of two"
    )
    assert work.fractions[-1] == 1


def test_cancel_stops_within_an_image(home: Path) -> None:
    work = RecordingWork(request("a.png"), home, checks=2)
    with pytest.raises(WorkStoppedError):
        run(work, Settings(home=home))
    assert not work.files
    assert max(work.fractions) < 0.5


def test_unreadable_image_does_not_affect_others(home: Path) -> None:
    result = run(RecordingWork(request("a.png", "b.png", classes=()), home), Settings(home=home))
    first, second = result["results"]
    assert first["target"]["space"] == "logit"
    assert second["error"]["code"] == "invalid_image"
    (home / "alone").mkdir(exist_ok=True)
    (home / "alone" / input_file_name(0)).write_bytes(b"no picture")
    with pytest.raises(InvalidImage):
        run(RecordingWork(request("b.png"), home / "alone"), Settings(home=home))


@pytest.mark.parametrize("last", [(3, "softmax"), (1, "sigmoid")])
def test_flat_nested_and_sequential_networks_give_equal_maps(
    last: tuple[int, str], home: Path
) -> None:
    grids_by_method: dict[Method, list[Any]] = {"grad_cam": [], "layer_cam": []}
    for build in (as_functional, as_nested, as_sequential):
        keras.utils.set_random_seed(8)
        name = f"{build.__name__}-{last[1]}"
        published(home / "store", build(layers.Dense(*last, name="predictions")), name)
        for method, grids in grids_by_method.items():
            job_request = request("a.png", classes=(0, 1), model=name, method=method)
            maps = run(RecordingWork(job_request, home), Settings(home=home))["maps"]
            assert [one["target"]["index"] for one in maps] == [0, 1]
            grids.append([one["grid"]["values"] for one in maps])
    for method, (flat, nested, sequence) in grids_by_method.items():
        assert np.any(flat), method
        np.testing.assert_allclose(nested, flat, atol=1e-5)
        np.testing.assert_allclose(sequence, flat, atol=1e-5)

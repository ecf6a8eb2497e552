import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contracts.errors import LayerNotFound
from contracts.settings import Settings
from models.explain.activations_job import run
from models.explain.heatmap_request import input_file_name
from tests.models import keras_warnings
from tests.models.explain.recording_work import RecordingWork
from tests.models.explain.versions import BLUEPRINT, published, tiny

pytestmark = keras_warnings.ignored


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    published(home / "store", tiny())
    pixels = np.random.default_rng(8).integers(0, 256, (24, 32, 3), np.uint8)
    Image.fromarray(pixels).save(home / input_file_name(0), "PNG")
    return home


def request(layer: str) -> dict[str, object]:
    question = {"layer": layer, "channels": 4, "order": "index"}
    return {"model": "tiny", "version": 1, "question": question, "colormap": "viridis"}


def test_maps_become_artifacts(home: Path) -> None:
    work = RecordingWork(request("conv2"), home)
    result = run(work, Settings(home=home))
    assert (result["layer"], "maps" in result) == ("conv2", False)
    kind, content = work.files["activations.json"]
    told = json.loads(content)
    assert kind == "application/json"
    assert [one["index"] for one in told["maps"]] == [0, 1, 2, 3]
    assert np.shape(told["maps"][0]["values"]) == tuple(result["shape"])
    kind, content = work.files["activations.png"]
    assert kind == "image/png"
    assert Image.open(io.BytesIO(content)).width > 100
    assert work.fractions[-1] == 1


def test_the_image_is_prepared_as_in_the_training(tmp_path: Path) -> None:
    """A version that sees the whole image sees it here too, as `/v1/activations` shows it."""
    published(tmp_path / "store", tiny(), blueprint=replace(BLUEPRINT, geometry="squash"))
    left = np.zeros((16, 64, 3), np.uint8)
    left[:, :16] = 255  # no centered crop contains it
    Image.fromarray(left).save(tmp_path / input_file_name(0), "PNG")
    assert contrast(request("conv1"), tmp_path) > 0
    assert contrast(request("conv1") | {"resize": "crop"}, tmp_path) == 0


def contrast(asked: dict[str, object], home: Path) -> float:
    work = RecordingWork(asked, home)
    run(work, Settings(home=home))
    maps = [one["values"] for one in json.loads(work.files["activations.json"][1])["maps"]]
    # Without the edge, where the padding is seen.
    return max(float(np.ptp(np.array(values)[2:-2, 2:-2])) for values in maps)


def test_an_unknown_layer_fails(home: Path) -> None:
    with pytest.raises(LayerNotFound):
        run(RecordingWork(request("none"), home), Settings(home=home))

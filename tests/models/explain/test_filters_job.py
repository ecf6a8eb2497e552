import io
from pathlib import Path

import pytest
from PIL import Image

from contracts.errors import LayerNotFound
from contracts.settings import Settings
from contracts.work import WorkStoppedError
from models.explain.filters_job import run
from tests.models import keras_warnings
from tests.models.explain.kept import Kept
from tests.models.explain.versions import published, tiny

pytestmark = keras_warnings.ignored


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    published(home / "store", tiny())
    return home


REQUEST = {"model": "tiny", "layer": "conv1", "steps": 3, "image_size": 16, "filters": [4, 2]}


def test_a_sheet_is_made(home: Path) -> None:
    work = Kept(REQUEST, home)
    result = run(work, Settings(home=home))
    assert (result["model"], result["version"], result["layer"]) == ("tiny", 1, "conv1")
    assert [one["index"] for one in result["filters"]] == [4, 2]
    kind, content = work.files["filters.png"]
    assert kind == "image/png"
    assert Image.open(io.BytesIO(content)).size[0] > 2 * 16
    assert work.told == sorted(work.told)
    assert work.told[-1] == 1


def test_it_stops_within_a_step(home: Path) -> None:
    work = Kept(REQUEST, home, checks=1)
    with pytest.raises(WorkStoppedError):
        run(work, Settings(home=home))
    assert not work.files


def test_a_layer_that_is_not_there_is_told(home: Path) -> None:
    with pytest.raises(LayerNotFound):
        run(Kept(REQUEST | {"layer": "conv9"}, home), Settings(home=home))

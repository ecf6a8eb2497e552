import io
from pathlib import Path

import pytest
from PIL import Image

from contracts.errors import LayerNotFound
from contracts.settings import Settings
from contracts.work import WorkStoppedError
from models.explain.filters_job import run
from tests.models import keras_warnings
from tests.models.explain.recording_work import RecordingWork
from tests.models.explain.versions import published, tiny

pytestmark = keras_warnings.ignored


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    published(home / "store", tiny())
    return home


REQUEST = {"model": "tiny", "layer": "conv1", "steps": 3, "image_size": 16, "filters": [4, 2]}


def test_job_makes_a_contact_sheet(home: Path) -> None:
    work = RecordingWork(REQUEST, home)
    result = run(work, Settings(home=home))
    assert (result["model"], result["version"], result["layer"]) == ("tiny", 1, "conv1")
    assert [one["index"] for one in result["filters"]] == [4, 2]
    kind, content = work.files["filters.png"]
    assert kind == "image/png"
    assert Image.open(io.BytesIO(content)).size[0] > 2 * 16
    assert work.fractions == sorted(work.fractions)
    assert work.fractions[-1] == 1


def test_cancelled_job_stops_within_a_step(home: Path) -> None:
    work = RecordingWork(REQUEST, home, checks=1)
    with pytest.raises(WorkStoppedError):
        run(work, Settings(home=home))
    assert not work.files


def test_unknown_layer_is_refused(home: Path) -> None:
    with pytest.raises(LayerNotFound):
        run(RecordingWork(REQUEST | {"layer": "conv9"}, home), Settings(home=home))

import io
from pathlib import Path

import pytest
from PIL import Image

from contracts.settings import Settings
from models.faces.detection.finder import FaceFinder
from models.faces.detection.job import run
from models.faces.detection.request import IMAGE
from tests.models.explain.recording_work import RecordingWork

pytestmark = pytest.mark.shared


def test_faces_are_in_pixels_of_the_image_that_was_sent(
    finder: FaceFinder, fetched: Path, people: list[Path], tmp_path: Path
) -> None:
    del finder  # skips the test without weights
    portrait = Image.open(people[0]).convert("RGB")
    wide = Image.new("RGB", (2 * portrait.width, portrait.height))
    wide.paste(portrait, (portrait.width, 0))
    wide = wide.resize((4 * wide.width, 4 * wide.height))
    buffer = io.BytesIO()
    wide.save(buffer, "JPEG")
    (tmp_path / IMAGE).write_bytes(buffer.getvalue())
    work = RecordingWork({"limit": 5}, tmp_path)
    result = run(work, Settings(_env_file=None, home=fetched, offline=True))
    assert (result["width"], result["height"], result["total"]) == (*wide.size, 1)
    (face,) = result["faces"]
    assert face["box"]["x"] > wide.width / 2
    assert face["box"]["height"] > portrait.height
    assert work.fractions[-1] == 1

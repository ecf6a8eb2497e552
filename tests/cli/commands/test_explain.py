"""`opsin explain` as a command line: its help and its errors."""

from pathlib import Path

import pytest
from PIL import Image

from contracts.inference.explanation import METHODS
from tests.cli.running import Starter
from tests.ports import free_port


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "cat.png"
    Image.new("RGB", (20, 10), "orange").save(path)
    return path


def test_help_names_every_method(start: Starter) -> None:
    run = start("-m", "cli", "explain", "--help")
    assert run.wait(60) == 0, run.text
    for word in (*METHODS, "--all-methods", "--class", "--legend"):
        assert word in run.text, word


def test_without_a_server_and_weights_the_error_says_what_helps(
    start: Starter, photo: Path
) -> None:
    run = start("-m", "cli", "explain", str(photo), "--local", OPSIN_OFFLINE=1)
    assert run.wait(60) == 1, run.text
    assert "opsin weights pull" in run.text
    assert "Traceback" not in run.text
    assert not photo.with_name("cat-heatmap.png").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--method", "occlusion", "--layer", "conv1"), "Leave --layer out"),
        (("--model", "none_such"), "none_such"),
    ],
)
def test_an_impossible_request_is_refused(
    start: Starter, photo: Path, options: tuple[str, ...], message: str
) -> None:
    run = start("-m", "cli", "explain", str(photo), "--local", *options)
    assert run.wait(60) == 1, run.text
    assert message in run.text
    assert "Traceback" not in run.text


def test_a_missing_named_server_is_an_error(start: Starter, photo: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    run = start("-m", "cli", "explain", str(photo), "--server", url)
    assert run.wait(60) == 1, run.text
    assert f"No Opsin answers at {url}" in run.text


def test_an_image_is_never_overwritten(start: Starter, photo: Path) -> None:
    before = photo.read_bytes()
    run = start("-m", "cli", "explain", str(photo), "--local", "--out", str(photo))
    assert run.wait(60) == 1, run.text
    assert "the image itself" in run.text
    assert photo.read_bytes() == before

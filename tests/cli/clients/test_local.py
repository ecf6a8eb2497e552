"""Answers without a server, from the store."""

import io
from pathlib import Path

import pytest
from PIL import Image

from cli.clients.local import LocalClient
from cli.clients.types import ClassifyOptions, ImageFile, OverlayOptions
from cli.output import CommandError
from contracts.settings import Settings
from tests.cli.backup.test_trained import images, trained
from tests.models import keras_warnings

pytestmark = keras_warnings.ignored


def test_a_trained_model_classifies_and_explains(tmp_path: Path) -> None:
    settings = Settings(_env_file=None, home=tmp_path / "home", min_free_disk_bytes=0)
    source = images(tmp_path / "colors")
    trained(settings, source)
    red = (source / "red" / "0.png").read_bytes()
    client = LocalClient.open(settings, "colors")
    files = [ImageFile("bad.png", b"not an image"), ImageFile("red.png", red)]
    answer = client.classify(files, ClassifyOptions("colors", 2, "squash"))
    assert (answer.model, answer.version, answer.batch_size) == ("colors", 1, 1)
    bad, good = answer.results
    assert bad.error is not None
    assert good.predictions is not None
    assert {prediction.label for prediction in good.predictions} == {"blue", "red"}
    options = OverlayOptions("colors", "grad_cam", None, None, False, 0.5, "jet")
    assert Image.open(io.BytesIO(client.explain(red, options))).size == (16, 16)


def test_an_unknown_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="none_such"):
        LocalClient.open(Settings(_env_file=None, home=tmp_path), "none_such")


@pytest.mark.parametrize("model", [None, "none_such"])
def test_a_folder_without_an_installation_is_named(
    tmp_path: Path, model: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPSIN_HOME", "OPSIN_WEIGHTS_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    settings = Settings(_env_file=None)
    with pytest.raises(CommandError, match=r"not the home of an installation.*OPSIN_HOME=") as bad:
        LocalClient.open(settings, model)
    assert "weights pull" not in str(bad.value)
    (tmp_path / "var/store").mkdir(parents=True)
    with pytest.raises(CommandError) as installed:
        LocalClient.open(settings, model)
    assert "OPSIN_HOME" not in str(installed.value)


def test_a_model_without_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="face_embedder has no classes"):
        LocalClient.open(Settings(_env_file=None, home=tmp_path), "face_embedder")


def test_the_default_is_one_of_the_known_networks_with_classes(tmp_path: Path) -> None:
    misspelt = Settings(_env_file=None, home=tmp_path, models=("squeeznet", "squeezenet"))
    with pytest.raises(CommandError, match="OPSIN_MODELS names squeeznet") as wrong:
        LocalClient.open(misspelt, None)
    assert wrong.value.exit_code == 2
    with pytest.raises(CommandError, match="names no network with classes"):
        LocalClient.open(misspelt.model_copy(update={"models": ("face_embedder",)}), None)

import io
from pathlib import Path

import pytest
from rich.console import Console

from cli.banner import models_table, print_banner
from cli.clients.api import Api
from cli.commands import keys
from cli.home import Home
from contracts.inference.registry import ModelInfo
from contracts.settings import Settings
from tests.ports import free_port

BASE_ALONE = ModelInfo(
    name="vgg16",
    network="vgg16",
    state="unavailable",
    reason="The classifier is missing.",
    aliases={"champion": 1},
    versions=[1],
    classes=1000,
    input_size=(224, 224),
    operations=["embed"],
    licence="CC-BY-4.0",
)


def test_a_network_without_its_classifier_is_partly_ready() -> None:
    nothing = BASE_ALONE.model_copy(update={"name": "squeezenet", "operations": []})
    screen = Console(file=io.StringIO(), width=80)
    screen.print(models_table([BASE_ALONE, nothing]))
    assert isinstance(screen.file, io.StringIO)
    rows = [line.split() for line in screen.file.getvalue().splitlines()[1:]]
    assert rows == [["vgg16", "partly", "embed"], ["squeezenet", "unavailable", "-"]]


def test_the_banner_names_what_still_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = BASE_ALONE.model_copy(
        update={"name": "squeezenet", "state": "ready", "operations": ["classify", "study"]}
    )
    late = BASE_ALONE.model_copy(update={"state": "loading", "operations": [], "reason": None})
    monkeypatch.setattr(Api, "models", lambda _: [ready, late])
    screen = Console(file=io.StringIO(), width=200)
    settings = Settings(_env_file=None, home=tmp_path, port=free_port())
    print_banner(settings, Home(tmp_path), screen)
    assert isinstance(screen.file, io.StringIO)
    text = screen.file.getvalue()
    assert f"ready at http://127.0.0.1:{settings.port}; vgg16 still loading\n" in text
    assert f"http://127.0.0.1:{settings.port}/ (everything in a browser" in text
    assert "study" not in text


def test_the_banner_says_who_is_let_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPSIN_HOME", str(tmp_path))
    settings = Settings(_env_file=None, home=tmp_path, port=free_port())

    def banner() -> str:
        screen = Console(file=io.StringIO(), width=200)
        print_banner(settings, Home(tmp_path), screen)
        assert isinstance(screen.file, io.StringIO)
        return screen.file.getvalue()

    assert "none needed on this machine" in banner()
    keys.create("phone", ["infer"])
    text = banner()
    assert "the commands here use" in text
    assert "$(cat " in text  # the request works as it is printed
    keys.cli()
    (tmp_path / "cli.key").unlink()
    assert "opsin keys cli" in banner()

"""A command that changes the home or its database refuses one that is half restored.

What it changed would be lost when the restore is finished: a key that was said to be revoked would
work again.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.backup import placing
from cli.backup.contents import AREAS
from cli.clients import local
from cli.home import Home
from cli.main import COMMANDS, build, load_command
from cli.output import CommandError
from contracts.keys import NewKey
from contracts.settings import Settings
from database.audit import COMMAND
from database.engine import open_engine
from database.keys import Keys
from models.catalog import CATALOG
from models.store.store import Store
from tests.cli.backup.furnished import now, publish
from tests.models.datasets.packing import photo, written
from tests.ports import free_port
from tests.tables import make_tables

KEY, FOLDER, IMAGE, OUT = "KEY", "FOLDER", "IMAGE", "OUT"
"""Words that the test replaces."""

REFUSED = {
    "serve": "",
    "worker": "",
    "backup": OUT,
    "keys create": "phone --scope infer",
    "keys list": "",  # it migrates the database
    "keys rotate": KEY,
    "keys revoke": f"{KEY} --yes",
    "keys cli": "",
    "keys open": "--yes",
    "train": f"{FOLDER} --model pets",
    "datasets add": FOLDER,
    "datasets fetch": "flower_photos",
    "datasets list": "",
    "datasets show": "pets",
    "datasets files": "pets",
    "datasets delete": "pets --yes",
    "models promote": "pets 1",
    "models delete": "pets 1 --yes",
    "models verify": "pets",
    "models download": f"pets --out {OUT}",
    "faces rotate": "",
    "faces rotate-token-key": "",
    "faces replace-lost-keys": "--yes",
}
"""The commands that change the home, with arguments."""

ALLOWED = {
    "doctor": "",
    "top": "--once",
    "classify": IMAGE,
    "explain": IMAGE,
    "embed": IMAGE,
    "layers": "squeezenet",
    "activations": f"{IMAGE} --layer conv1",
    "filters": "squeezenet --layer conv1",
    "style": f"{IMAGE} {IMAGE}",
    "dream": IMAGE,
    "sweep": f"{FOLDER} --model pets --try learning_rate.head=0.1",
    "presets": "",
    "datasets video": f"ds_1 {IMAGE} --label cat",
    "tensorboard": "",
    "quantize": "pets 1 ds_1",
    "models list": "",
    "models show": "pets",
    "models summary": "squeezenet",
    "models evaluate": f"pets {FOLDER}",
    "weights pull": "squeezenet",
    "weights list": "",
    "weights verify": "",
    "jobs list": "",
    "jobs show": "job_1",
    "jobs follow": "job_1",
    "jobs cancel": "job_1 --yes",
    "jobs delete": "job_1 --yes",
    "jobs fetch": "job_1 a.png",
    "faces enroll": f"{IMAGE} --name Ada",
    "faces identify": IMAGE,
    "faces login": f"{IMAGE} Ada",
    "faces verify": f"{IMAGE} {IMAGE}",
    "faces subjects": "",
    "faces challenge": "sub_1",
    "faces erase": "sub_1 --yes",
    "faces export": f"sub_1 --out {OUT}",
    "faces detect": IMAGE,
    "faces calibrate": FOLDER,
    "faces threshold": "0.5",
}
"""Those that only read it, or ask the service, which does not start from such a home."""

FINISH_IT = {"up", "restore"}


def all_commands() -> Iterator[str]:
    for name in COMMANDS:
        below = getattr(load_command(name), "commands", None)
        yield from [name] if below is None else (f"{name} {each}" for each in below)


def test_every_command_is_known_to_this_test() -> None:
    assert set(all_commands()) == {*REFUSED, *ALLOWED, *FINISH_IT}


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    settings = Settings(_env_file=None, home=tmp_path / "home", port=free_port())
    make_tables(settings.database)
    for _ in range(2):
        publish(Store(settings.store_home))
    monkeypatch.chdir(tmp_path)
    for name, value in (
        *(("HOME", settings.home), ("PORT", settings.port), ("OFFLINE", "true")),
        *(("REDIS_URL", "redis://127.0.0.1:1/0"), ("WEIGHTS_DIR", tmp_path / "weights")),
    ):
        monkeypatch.setenv(f"OPSIN_{name}", str(value))
    return settings


@contextmanager
def interrupted(home: Path) -> Iterator[str]:
    """As a restore leaves it that was killed between two moves."""
    steps = home / ".restore" / "steps.json"
    steps.parent.mkdir()
    steps.write_text('{"backup": "", "steps": []}')
    yield "interrupted"
    steps.unlink()
    steps.parent.rmdir()


@contextmanager
def incomplete(home: Path) -> Iterator[str]:
    """As a restore leaves it that was killed before it repeated what was revoked."""
    (home / placing.NOTED).write_text("{}")
    yield "interrupted"
    (home / placing.NOTED).unlink()


@contextmanager
def in_progress(home: Path) -> Iterator[str]:
    with Home(home).exclusive():
        yield "in progress"


def content(home: Path) -> dict[str, bytes]:
    """Of what a restore replaces."""
    folders = [path for area in (*AREAS, "secrets") for path in (home / area).rglob("*")]
    files = [path for path in (*folders, home / "opsin.db", home / "cli.key") if path.is_file()]
    return {str(path): path.read_bytes() for path in files}


def words(command: str, tmp_path: Path, settings: Settings) -> list[str]:
    engine = open_engine(settings.database)
    made = Keys(engine, now).create(NewKey(name="leaked", scopes=["admin"]), actor=COMMAND)
    engine.dispose()
    files = {f"{label}/{n}.png": photo(n) for label in "ab" for n in range(2)}
    folder = written(tmp_path / "pictures", files)
    known = {KEY: made.id, FOLDER: str(folder), IMAGE: str(folder / "a/0.png")}
    known[OUT] = str(tmp_path / "out")
    given = (REFUSED | ALLOWED)[command].split()
    return [*command.split(), *(known.get(word, word) for word in given)]


@pytest.mark.parametrize("command", REFUSED)
def test_it_is_refused(command: str, tmp_path: Path, settings: Settings) -> None:
    call = words(command, tmp_path, settings)
    before = content(settings.home)
    for state in (interrupted, incomplete, in_progress):
        with state(settings.home) as said:
            done = CliRunner().invoke(build(), call)
            assert isinstance(done.exception, CommandError), done.output
            assert said in done.exception.message
            assert content(settings.home) == before


@pytest.mark.parametrize("command", ALLOWED)
def test_it_changes_nothing(command: str, tmp_path: Path, settings: Settings) -> None:
    call = words(command, tmp_path, settings)
    before = content(settings.home)
    with interrupted(settings.home):
        done = CliRunner().invoke(build(), call)
        assert "Usage:" not in done.output
        assert getattr(done.exception, "exit_code", 0) != 2, done.exception
        assert content(settings.home) == before


def test_the_import_of_a_network_is_refused(settings: Settings) -> None:
    with interrupted(settings.home), pytest.raises(CommandError, match="interrupted"):
        local._import_network(settings, CATALOG["squeezenet"])

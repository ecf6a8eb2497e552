import re
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from database.audit import Audit
from database.engine import open_engine
from tests.cli.conftest import Call
from tests.models.datasets.packing import on_disk, tree, written, zipped
from tests.postgresql import new_database


class Command:
    def __init__(self, call: Call, folder: Path) -> None:
        self._call, self._folder = call, folder

    def __call__(self, *arguments: str, code: int = 0) -> str:
        return self.at(self._folder / "home", *arguments, code=code)

    def at(self, home: Path, *arguments: str, code: int = 0, **settings: object) -> str:
        ended, text = self._call("datasets", *arguments, OPSIN_HOME=home, **settings)
        assert ended == code, text
        assert "Traceback" not in text
        return text


@pytest.fixture
def datasets(call: Call, tmp_path: Path) -> Command:
    return Command(call, tmp_path)


def test_a_dataset_from_a_folder_to_its_deletion(datasets: Command, tmp_path: Path) -> None:
    files = tree({"cat": 20, "dog [big]": 5}) | {"cat/notes.txt": b"milk", "cat/.x": b""}
    folder = written(tmp_path / "pets", files)
    (folder / "cat" / "outside.png").symlink_to("/etc/passwd")
    added = datasets("add", str(folder))
    assert re.search(r"dog \[big\]\t5", added)
    assert "25 images: 17 train, 4 validation, 4 test" in added
    assert "imbalance: 4:1" in added
    assert "3 files were left out" in added
    assert re.search(r"cat/outside.png\tlink", added)
    assert "ready to train" in added
    (dataset_id,) = set(re.findall(r"ds_[\w-]+", added))
    assert re.search(rf"{dataset_id}\tpets\t2\t25\t3\t", datasets("list"))
    left_out = datasets("files", dataset_id, "--status", "rejected")
    assert len(left_out.splitlines()) == 4
    assert datasets("show", "pets") == datasets("show", dataset_id)
    assert "no dataset 'pest'. Did you mean pets?" in datasets("show", "pest", code=1)
    again = datasets("add", str(folder))
    assert "Several datasets have that name" in datasets("delete", "pets", "--yes", code=1)
    (other,) = set(re.findall(r"ds_[\w-]+", again))
    assert "is deleted" in datasets("delete", other, "--yes")
    assert f"{dataset_id} is deleted" in datasets("delete", "pets", "--yes")
    assert "no dataset with that id" in datasets("show", dataset_id, code=1)
    engine = open_engine(f"sqlite:///{tmp_path / 'home' / 'opsin.db'}")
    lines = Audit(engine, lambda: datetime.now(UTC)).list(action="dataset_deleted").items
    engine.dispose()
    assert [(line.actor, line.subject) for line in lines] == [
        ("command", dataset_id),
        ("command", other),
    ]


def test_a_refused_source_is_one_line(datasets: Command, tmp_path: Path) -> None:
    bad = tmp_path / "pets.zip"
    bad.write_bytes(zipped({"cat/1.png": b"x"})[:-20])
    assert "damaged or truncated" in datasets("add", str(bad), code=1)
    assert "no such file or folder" in datasets("add", str(tmp_path / "nonesuch"), code=1)
    assert on_disk(tmp_path / "home" / "datasets") <= {".staging"}
    assert "opsin datasets add" in datasets("list", code=1)


def test_a_published_dataset_is_added_or_the_file_that_is_missing_is_told(
    datasets: Command, tmp_path: Path
) -> None:
    output = datasets("fetch", "fruits360", code=1)
    target = tmp_path / "home" / "downloads" / "fruits360.zip"
    assert "fruits360.zip is not here" in output
    assert "mnist" in datasets("fetch", "imagenet", code=1)
    target.write_bytes(zipped(tree({"Training/Apple": 5, "Training/Fig": 5, "Test/Apple": 2})))
    added = datasets("fetch", "fruits360")
    assert re.search(r"Apple\t7", added)
    assert "ready to train" in added


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_a_list_at_an_empty_home_changes_nothing(
    request: pytest.FixtureRequest, datasets: Command, tmp_path: Path, database: str
) -> None:
    url = f"sqlite:///{tmp_path / 'apart.db'}"
    if database == "postgresql":
        url = new_database(request.getfixturevalue("postgresql"), "listed")
    folder = written(tmp_path / "pets", tree({"cat": 5, "dog": 5}))
    datasets.at(tmp_path / "home", "add", str(folder), OPSIN_DATABASE_URL=url)
    output = datasets.at(tmp_path / "empty", "list", code=2, OPSIN_DATABASE_URL=url)
    assert "holds datasets" in output
    assert "OPSIN_HOME" in output
    assert {path.name for path in (tmp_path / "empty").rglob("*")} <= {"run", "use.lock"}
    shutil.move(tmp_path / "home/datasets", tmp_path / "datasets")  # a disk of its own
    for _ in range(2):
        assert "pets" in datasets.at(tmp_path / "home", "list", OPSIN_DATABASE_URL=url)

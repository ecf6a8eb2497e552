import json
import os
import resource
import subprocess
import sys
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import pytest

from contracts.inference.manifest import Served
from database.audit import Audit
from database.engine import open_engine
from models.store.store import Store
from tests.cli.conftest import Call
from tests.cli.running import ROOT
from tests.models.drafts import DRAFT, FILES, write_files
from tests.tables import make_tables


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """`pets` with versions 1, the champion, and 2."""
    store = Store(tmp_path / "home" / "store")
    for _ in range(2):
        with store.staging() as folder:
            write_files(folder)
            store.publish("pets", folder, DRAFT)
    store.promote("pets", 1)
    return store


@pytest.fixture
def models(call: Call) -> "Models":
    return Models(call)


class Models:
    def __init__(self, call: Call) -> None:
        self._call = call

    def __call__(self, *arguments: str, code: int = 0) -> str:
        ended, text = self._call("models", *arguments)
        assert ended == code, text
        assert "Traceback" not in text
        return text


def test_changes_are_in_the_audit_log(models: Models, store: Store, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'home' / 'opsin.db'}"
    make_tables(url)
    models("promote", "pets", "2")
    models("promote", "pets", "2")
    models("delete", "pets", "1", "--yes")
    assert store.versions("pets") == [2]
    engine = open_engine(url)
    lines = Audit(engine, lambda: datetime.now(UTC)).list().items
    engine.dispose()
    assert [(line.actor, line.action, line.subject) for line in lines] == [
        ("command", "version_deleted", "pets/1"),
        ("command", "alias_set", "pets/2 champion"),
    ]


def test_list_promote_delete(models: Models, store: Store) -> None:
    assert "champion" in models("list")
    assert "was version 1" in models("promote", "pets", "2")
    assert store.resolve("pets") == 2
    assert "champion of pets already is version 2" in models("promote", "pets", "2")
    assert "promote another" in models("delete", "pets", "2", "--yes", code=1)
    assert "--yes" in models("delete", "pets", "1", code=2)
    assert store.versions("pets") == [1, 2]
    models("delete", "pets", "1", "--yes")
    assert store.versions("pets") == [2]
    assert "no version '9'" in models("promote", "pets", "9", code=1)


def test_a_version_is_shown_with_its_figures(models: Models, store: Store) -> None:
    served = Served(
        runtime="openvino-float32", split="test", pictures=40, accuracy=0.875,
        float32_accuracy=0.875, largest_difference=0.0, changed=0,
    )  # fmt: skip
    with store.staging() as folder:
        write_files(folder)
        figures = {"metrics": {"test_accuracy": 0.875}, "served": served}
        store.publish("pets", folder, DRAFT.model_copy(update=figures))
    lines = models("show", "pets", "3").splitlines()
    assert lines[:3] == ["field\tvalue", "model\tpets", "version\t3"]
    assert "test accuracy\t87.5%" in lines
    assert "as served\t87.5% of 40 images of the test split, by openvino-float32" in lines
    assert "aliases\tchampion" in models("show", "pets")
    manifest = json.loads(models("show", "pets", "3", "--json"))
    assert manifest["served"]["accuracy"] == 0.875
    assert "no version '9'" in models("show", "pets", "9", code=1)


def test_verify_quarantines_a_damaged_version(models: Models, store: Store) -> None:
    assert models("verify").count("ok") == 2
    (store.path("pets", 1) / "model.keras").write_bytes(b"?")
    text = models("verify", "pets", code=1)
    assert "pets 1 is in quarantine: model.keras" in text
    assert "opsin models promote pets VERSION" in text
    assert "in quarantine" in models("list")


def test_download(models: Models, store: Store, tmp_path: Path) -> None:
    to = tmp_path / "mine.keras"
    models("download", "pets", "--format", "keras", "--out", str(to))
    assert to.read_bytes() == FILES["model.keras"]
    again = models("download", "pets", "--format", "keras", "--to", str(to), code=1)
    assert "exists already" in again


def test_a_download_that_a_full_disk_ended_can_be_repeated(
    models: Models, store: Store, tmp_path: Path
) -> None:
    to = tmp_path / "out" / "pets.zip"
    to.parent.mkdir()
    call = ("models", "download", "pets", "--out", str(to))
    done = subprocess.run(
        [sys.executable, "-m", "cli", *call],
        cwd=ROOT,
        env=os.environ | {"OPSIN_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64)),
    )
    assert (done.returncode, list(to.parent.iterdir())) == (1, [])
    assert "cannot be written (File too large)" in done.stderr
    models(*call[1:])
    assert zipfile.is_zipfile(to)


def test_an_empty_store_says_what_fills_it(models: Models) -> None:
    assert "A worker imports" in models("list", code=1)

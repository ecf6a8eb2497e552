import errno
import io
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from contracts.errors import (
    Conflict,
    ModelNotFound,
    NeedsOperator,
    Unavailable,
    ValidationFailed,
    VersionInUse,
    VersionNotFound,
)
from models.store.aliases import MAX_ALIASES
from models.store.manifest import find_problems
from models.store.store import Store
from tests.models.drafts import DRAFT, FILES, write_files


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def publish(store: Store, model: str = "pets") -> int:
    with store.staging() as folder:
        write_files(folder)
        return store.publish(model, folder, DRAFT)


def rubbish(root: Path) -> list[str]:
    return [path.name for path in (root / ".staging").iterdir() if path.name != ".lock"]


def test_published_version_reads_back(store: Store) -> None:
    assert publish(store) == 1
    manifest = store.manifest("pets", 1)
    assert (manifest.model, manifest.version, manifest.network) == ("pets", 1, "vgg16")
    assert set(manifest.files) == set(FILES)
    for name, content in FILES.items():
        assert manifest.files[name].size == len(content)
        assert (store.path("pets", 1) / name).read_bytes() == content
    assert store.verify("pets", 1) == []
    assert store.models() == ["pets"]


def test_number_of_a_deleted_version_is_not_reused(store: Store) -> None:
    assert [publish(store) for _ in range(3)] == [1, 2, 3]
    store.delete("pets", 3)
    assert store.versions("pets") == [1, 2]
    assert publish(store) == 4
    with pytest.raises(VersionNotFound, match="1, 2, 4"):
        store.resolve("pets", 3)


def test_alias_is_promoted_and_rolled_back(store: Store) -> None:
    publish(store), publish(store)
    with pytest.raises(VersionNotFound, match="champion"):
        store.resolve("pets")
    assert store.promote("pets", 2) is None
    assert store.resolve("pets") == store.resolve("pets", "champion") == 2
    assert store.promote("pets", 1) == 2
    assert store.resolve("pets") == 1
    assert store.resolve("pets", "2") == store.resolve("pets", 2) == 2
    store.promote("pets", "champion", alias="stable")
    assert store.aliases("pets") == {"champion": 1, "stable": 1}
    store.drop_alias("pets", "stable")
    assert store.aliases("pets") == {"champion": 1}


def test_unknown_models_and_versions_are_not_found(store: Store) -> None:
    with pytest.raises(ModelNotFound):
        store.resolve("dogs")
    publish(store)
    for wrong in (7, "7", "0", "-1", "1.0", "../1", "latest", "01", "\uff11"):
        with pytest.raises(VersionNotFound):
            store.resolve("pets", wrong)
    with pytest.raises(VersionNotFound):
        store.promote("pets", 9)
    with pytest.raises(ModelNotFound):
        store.promote("dogs", 1)
    assert store.models() == ["pets"]


@pytest.mark.parametrize(
    "name", ["..", ".", "", "a/b", "../x", ".staging", "A", "-a", "a" * 65, "a\n", "é", "a\0"]
)
def test_no_name_leads_out_of_the_store(store: Store, name: str) -> None:
    with pytest.raises(ValidationFailed):
        store.versions(name)
    with pytest.raises(ValidationFailed):
        store.resolve(name)


@pytest.mark.parametrize("alias", ["3", "", "../x", "3rd"])
def test_alias_that_looks_like_a_number_is_refused(store: Store, alias: str) -> None:
    publish(store)
    with pytest.raises(ValidationFailed):
        store.promote("pets", 1, alias=alias)


def test_version_in_use_is_not_deleted(store: Store, tmp_path: Path) -> None:
    publish(store), publish(store)
    store.promote("pets", 1)
    with pytest.raises(VersionInUse, match="champion"):
        store.delete("pets", 1)
    assert store.versions("pets") == [1, 2]
    store.promote("pets", 2)
    store.delete("pets", 1)
    assert store.versions("pets") == [2]
    assert rubbish(tmp_path / "store") == []


@pytest.mark.parametrize("harm", ["flip", "cut", "remove", "add", "manifest"])
def test_damaged_version_goes_to_quarantine(store: Store, tmp_path: Path, harm: str) -> None:
    publish(store)
    publish(store)
    store.promote("pets", 2)
    path = store.path("pets", 2) / "saved_model/saved_model.pb"
    match harm:
        case "flip":
            path.write_bytes(b"G" + path.read_bytes()[1:])
        case "cut":
            path.write_bytes(path.read_bytes()[:-1])
        case "remove":
            path.unlink()
        case "add":
            (path.parent / "assets.bin").write_bytes(b"x")
        case "manifest":
            (store.path("pets", 2) / "manifest.json").write_text("{")
            with pytest.raises(VersionNotFound, match="damaged"):
                store.manifest("pets", 2)
    assert len(store.verify("pets", 2)) == 1
    assert store.versions("pets") == [1]
    assert (tmp_path / "store/pets/quarantine/2/model.keras").is_file()
    with pytest.raises(VersionNotFound, match="quarantine"):
        store.resolve("pets")
    assert publish(store) == 3
    assert store.models() == ["pets"]


@pytest.mark.parametrize("name", ["manifest.json", "model.keras"])
def test_a_version_that_cannot_be_read_at_the_moment_stays(
    store: Store, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    publish(store)
    store.promote("pets", 1)
    original = io.open

    def fail(path: Any, *args: Any, **kwargs: Any) -> Any:
        if Path(path).name == name:
            raise OSError(errno.EIO, "Input/output error", str(path))
        return original(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(io, "open", fail)  # what `pathlib` calls
        with pytest.raises(OSError, match="Input/output error"):
            store.verify("pets", 1)
        if name == "manifest.json":
            with pytest.raises(Unavailable, match="at the moment"):
                store.manifest("pets", 1)
    assert store.verify("pets", 1) == []
    assert store.quarantined("pets") == []
    assert store.resolve("pets") == 1


def test_derived_files_are_not_part_of_a_version(store: Store) -> None:
    publish(store)
    derived = store.path("pets", 1) / "derived"
    derived.mkdir()
    (derived / "model.onnx").write_bytes(b"x")
    assert store.verify("pets", 1) == []


def _publish_many(root: Path, count: int) -> list[int]:
    store = Store(root)
    return [publish(store) for _ in range(count)]


def test_threads_never_publish_the_same_number(store: Store, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(lambda _: _publish_many(tmp_path / "store", 5), range(8)))
    assert sorted(chain.from_iterable(numbers)) == store.versions("pets") == list(range(1, 41))
    assert all(mine == sorted(mine) for mine in numbers)
    assert all(store.verify("pets", version) == [] for version in store.versions("pets"))


def publisher(root: Path, count: int) -> subprocess.Popen[str]:
    here = Path(__file__)
    return subprocess.Popen(
        [sys.executable, str(here.with_name("publisher.py")), str(root), str(count)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(here.parents[3])},
    )


def test_processes_never_publish_the_same_number(store: Store, tmp_path: Path) -> None:
    processes = [publisher(tmp_path / "store", 5) for _ in range(8)]
    outputs = [process.communicate(timeout=120)[0].split()[1:] for process in processes]
    numbers = sorted(int(number) for number in chain.from_iterable(outputs))
    assert numbers == store.versions("pets") == list(range(1, 41))
    assert all(store.verify("pets", version) == [] for version in store.versions("pets"))
    assert rubbish(tmp_path / "store") == []


def test_folder_of_a_live_publisher_is_not_swept(store: Store) -> None:
    with store.staging() as mine:
        write_files(mine)
        publish(store)
        assert store.publish("pets", mine, DRAFT) == 2
    assert store.verify("pets", 2) == []


def test_a_folder_that_cannot_be_removed_yet_is_swept_later(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("models.store.staging.shutil.rmtree", lambda *_, **__: None)
        with store.staging() as folder:
            pass
    assert set(rubbish(tmp_path / "store")) == {folder.name, f"{folder.name}.lock"}
    publish(store)
    assert rubbish(tmp_path / "store") == []


def test_killed_publisher_leaves_no_incomplete_version(tmp_path: Path) -> None:
    root = tmp_path / "store"
    store = Store(root)
    dice = random.Random(8)
    seen_rubbish = 0
    for _ in range(8):
        with publisher(root, 1_000_000) as process:
            assert process.stdout is not None
            process.stdout.readline()
            for _ in range(5):  # published versions are complete at every moment
                time.sleep(dice.uniform(0.001, 0.02))
                assert [
                    v for v in store.versions("pets") if find_problems(store.path("pets", v))
                ] == []
            process.send_signal(signal.SIGKILL)
        seen_rubbish += len(rubbish(root))
        publish(store)  # the next one is not blocked, and sweeps
        assert rubbish(root) == []
    versions = store.versions("pets")
    assert versions == list(range(1, len(versions) + 1))
    assert all(store.verify("pets", version) == [] for version in versions)
    store.resolve("pets")
    assert seen_rubbish, "no kill happened during a write; the test proves nothing"


def test_store_does_not_import_tensorflow() -> None:
    code = "import sys, models.store.store; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_damaged_aliases_are_called_so_and_cost_no_version(store: Store, tmp_path: Path) -> None:
    publish(store), publish(store)
    store.promote("pets", 2)
    aliases = tmp_path / "store/pets/aliases.json"
    aliases.write_text('{"aliases": {')
    for change in (
        lambda: store.promote("pets", 1),
        lambda: store.drop_alias("pets", "champion"),
        lambda: store.delete("pets", 1),
        lambda: store.resolve("pets"),
    ):
        with pytest.raises(NeedsOperator, match="in the store is damaged"):
            change()
    with pytest.raises(VersionNotFound, match="Versions: 1, 2"):
        store.resolve("pets", 9)
    assert publish(store) == 3
    assert aliases.read_text() == '{"aliases": {', "for whoever mends it"


def test_a_model_has_few_aliases(store: Store) -> None:
    """Each response about a model names all of them."""
    publish(store), publish(store)
    for number in range(MAX_ALIASES):
        store.promote("pets", 1, f"alias-{number}")
    with pytest.raises(Conflict, match="Delete one first"):
        store.promote("pets", 1, "another")
    store.promote("pets", 2, "alias-0")
    store.promote("pets", 2)
    store.drop_alias("pets", "champion")
    store.drop_alias("pets", "alias-1")
    store.promote("pets", 1, "another")
    with pytest.raises(VersionNotFound, match=f"and {MAX_ALIASES - 10} more"):
        store.resolve("pets", 9)


def test_a_number_in_quarantine_is_not_given_again(store: Store, tmp_path: Path) -> None:
    publish(store), publish(store)
    (store.path("pets", 2) / "model.keras").unlink()
    assert store.verify("pets", 2)
    (tmp_path / "store/pets/aliases.json").unlink()
    assert publish(store) == 3

"""The store that the tests keep between runs is used only while it is what the code makes."""

from pathlib import Path

import pytest

from tests.flow import imports

NETWORK = "squeezenet"


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The networks that were imported; an import takes no time here."""
    made: list[str] = []

    def pretend(network: str, folders: list[Path]) -> None:
        made.append(network)
        (folders[0] / network).mkdir(parents=True)
        (folders[0] / network / "manifest.json").write_text("{}")

    monkeypatch.setattr(imports, "_import", pretend)
    monkeypatch.setattr(imports, "KEPT", tmp_path)
    return made


def test_a_network_is_imported_once(made: list[str], tmp_path: Path) -> None:
    store = tmp_path / "key/store"
    for _ in range(2):
        imports.import_networks(store, [NETWORK], [])
    assert made == [NETWORK]


def test_a_network_whose_files_a_test_changed_is_imported_again(
    made: list[str], tmp_path: Path
) -> None:
    store = tmp_path / "key/store"
    imports.import_networks(store, [NETWORK], [])
    (store / NETWORK / "manifest.json").write_text("broken")
    imports.import_networks(store, [NETWORK], [])
    assert made == [NETWORK] * 2
    assert (store / NETWORK / "manifest.json").read_text() == "{}"


def test_the_newest_stores_are_kept(made: list[str], tmp_path: Path) -> None:
    for number in range(4):
        imports.import_networks(tmp_path / f"{number}/store", [NETWORK], [])
    assert len(list(tmp_path.iterdir())) == 2
    assert (tmp_path / "3").is_dir()


def test_the_key_depends_on_the_code_of_an_import_and_no_other() -> None:
    code = {path.relative_to(imports.ROOT).as_posix() for path in imports._code()}
    assert code >= {"models/export/catalog_import.py", "models/networks/vgg.py"}
    assert code >= {"models/images/decode.py", "models/weights/weights.toml"}
    assert not [path for path in code if path.startswith(("service/", "workers/", "cli/"))]

"""The documentation matches the repository: dependencies, settings, commands, tests and paths."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from contracts.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
TOP_LEVEL = (
    *("contracts", "models", "database", "service", "workers", "cli"),
    *("tests", "benchmarks", "docs", "requirements", "scripts"),
)


def declared() -> set[str]:
    """Every direct dependency of pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    lines: list[object] = [*project["project"]["dependencies"]]
    for extra in project["project"]["optional-dependencies"].values():
        lines += extra
    for group in project["dependency-groups"].values():
        lines += group
    # Entries that are not strings are `{ include-group = … }`.
    return {re.split(r"[\[~=<>;! ]", line)[0] for line in lines if isinstance(line, str)}


def test_each_dependency_has_a_reason_and_each_reason_a_dependency() -> None:
    text = (ROOT / "docs" / "reference" / "dependencies.md").read_text()
    assert set(re.findall(r"^\| `([\w-]+)` \| \S", text, re.MULTILINE)) == declared()


def test_each_dependency_is_pinned_and_hashed() -> None:
    text = (ROOT / "requirements" / "dev.txt").read_text()
    pinned = set(re.findall(r"^([\w-]+)(?:\[\w+\])?==", text, re.MULTILINE))
    assert declared() - {"opsin"} <= pinned


def test_the_tested_packages_are_those_that_serve() -> None:
    """dev.txt is a superset of the others, so what `make test` installs also runs `make up`."""

    def pins(name: str) -> set[str]:
        text = (ROOT / "requirements" / f"{name}.txt").read_text()
        return set(re.findall(r"^([\w-]+)(?:\[\w+\])?==([^\s;]+)", text, re.MULTILINE))

    assert pins("worker") <= pins("dev")
    assert pins("api") <= pins("worker")


def test_the_env_example_names_existing_settings() -> None:
    names = re.findall(r"^# (OPSIN_\w+)=", (ROOT / ".env.example").read_text(), re.MULTILINE)
    assert names
    assert set(names) <= {f"OPSIN_{field.upper()}" for field in Settings.model_fields}


def test_the_commands_in_the_readme_exist() -> None:
    text = (ROOT / "README.md").read_text()
    makes = set(re.findall(r"\bmake ([a-z-]+)\b", text))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"up", "test"} <= makes <= targets
    known = subprocess.run(
        [sys.executable, "-m", "cli", "--help"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for command in set(re.findall(r"^opsin ([a-z]+)", text, re.MULTILINE)):
        assert re.search(rf"^  {command} ", known, re.MULTILINE), command


def _file_of(module: str) -> str:
    path = module.replace(".", "/")
    return f"{path}/__main__.py" if (ROOT / path).is_dir() else f"{path}.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_each_path_in_the_docs_exists(page: Path) -> None:
    """Paths in backticks, such as `service/queue/client.py`, and relative links."""
    text = page.read_text()
    top_level = "|".join(TOP_LEVEL)
    quoted = re.findall(rf"`((?:{top_level})/[^`:*\s]*)(?:::\w+)?`", text)
    drawn = re.findall(rf"(?<![\w/`.-])(?:{top_level})/[\w/]+\.py", text)  # in diagrams
    modules = re.findall(rf"python -m ((?:{top_level})\.[\w.]*\w)", text)
    drawn += [_file_of(module) for module in modules]
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text)
    paths = {ROOT / path for path in (*quoted, *drawn)} | {page.parent / link for link in links}
    assert [str(path) for path in sorted(paths) if not path.exists()] == []


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "service/console/texts.json"], ids=lambda page: page.name
)
def test_per_cent_follows_its_number_without_a_space(page: Path) -> None:
    assert re.findall(r".{0,20}\d\s%.{0,20}", page.read_text()) == []


def test_no_page_cites_a_file_outside_the_repository() -> None:
    assert [page.name for page in PAGES if "API.md" in page.read_text()] == []


def test_each_threat_has_a_test() -> None:
    text = (ROOT / "docs" / "explanation" / "threat-model.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    threats = [line for line in rows if not line.startswith("| Threat |")]
    assert len(threats) > 40
    for line in threats:
        named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)` \|$", line)
        assert len(named) == 1, line
        path, name = named[0]
        assert re.search(rf"^(async )?def {name}\(", (ROOT / path).read_text(), re.MULTILINE), line

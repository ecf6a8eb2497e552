"""Clients generated from the OpenAPI document by others' tools, against a real installation.

Each is generated without an option that changes what it makes, its types are checked, and a program
in `tests/openapi/programs` classifies a batch, starts a job and follows it.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.flow.conftest import Networks
from tests.flow.installation import ROOT, Installation

# Installs generators, and compiles what they make. The first test also waits for all of that.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

KEY = "generated-clients-use-this-key"
TOOLS = ROOT / "tests" / "openapi"
PROGRAMS = TOOLS / "programs"
COMMAND_SECONDS = 600  # of one command; a generator or a compiler takes a minute on a busy machine
NODE_TOOLS = TOOLS / "node_modules" / ".bin"
PYTHON_TOOLS = ROOT / "build" / "generators"
EXPECTED = {"state": "succeeded", "artifact": b"\x89PNG".hex(), "heatmap": True}


def run(*command: object, cwd: Path = ROOT, **env: str) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=os.environ | env,
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def python_tools() -> Path:
    """The folder of the generators that come from PyPI, installed once."""
    folder = PYTHON_TOOLS / ("Scripts" if os.name == "nt" else "bin")
    pins = (TOOLS / "requirements.txt").read_text()
    installed = PYTHON_TOOLS / "installed.txt"
    if not installed.is_file() or installed.read_text() != pins:
        run(sys.executable, "-m", "venv", "--clear", PYTHON_TOOLS)
        pip = [folder / "python", "-m", "pip", "install", "-q", "--require-hashes"]
        try:
            run(*pip, "-r", TOOLS / "requirements.txt")
        except AssertionError as error:
            pytest.skip(f"the generators could not be fetched: {error}"[:400])
        installed.write_text(pins)
    return folder


@pytest.fixture(scope="module")
def node_tools() -> Path:
    """The folder of the generators that come from npm."""
    run(ROOT / "scripts" / "openapi", "tools")
    if not NODE_TOOLS.is_dir():
        pytest.skip("the generators for TypeScript need Node.js with npm")
    return NODE_TOOLS


@pytest.fixture(scope="module")
def service(
    fetched_home: Path, networks: Networks, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    home = tmp_path_factory.mktemp("generated") / "home"
    env = {
        "OPSIN_MODELS": "efficientnet_lite0",
        "OPSIN_API_KEY": KEY,
        "OPSIN_JOB_NICENESS": "0",  # the programs wait for their jobs
    }
    installation = Installation(
        home, fetched_home / "weights", env, store=networks("efficientnet_lite0")
    )
    try:
        installation.start()
        installation.run("jobs", "worker --jobs")
        yield installation
    finally:
        installation.close()


@dataclass(frozen=True)
class Workshop:
    """Where clients are generated from the document of a running service."""

    folder: Path
    document: Path
    arguments: tuple[str, ...]

    def compile(self, name: str) -> None:
        """Check the types of a TypeScript program and its generated client."""
        shutil.copy(PROGRAMS / f"{name}.ts", self.folder)
        shutil.copy(PROGRAMS / "tsconfig.json", self.folder)
        (self.folder / "package.json").write_text('{"type": "commonjs"}')
        (self.folder / "node_modules").symlink_to(TOOLS / "node_modules")
        run(NODE_TOOLS / "tsc", "-p", ".", cwd=self.folder)

    def check(self, output: str, classes: list[str]) -> None:
        """Assert that a program got what it asked for."""
        answer: dict[str, Any] = json.loads(output)
        assert answer.pop("labels") == classes
        assert answer.pop("events") >= 2, "running, succeeded"
        assert answer == EXPECTED


@pytest.fixture
def workshop(service: Installation, photos: Path, tmp_path: Path) -> Workshop:
    document = tmp_path / "openapi.json"
    # The first request for it makes it, which takes seconds, and many on a busy machine.
    answer = httpx.get(f"{service.url}/openapi.json", timeout=COMMAND_SECONDS)
    document.write_bytes(answer.raise_for_status().content)
    images = [str(photos / name) for name in ("cat.png", "coffee.png")]
    return Workshop(tmp_path, document, (service.url, KEY, *images))


@pytest.fixture(scope="module")
def classes(service: Installation, photos: Path) -> list[str]:
    """What the service says about the two images."""
    files = [("image", (photos / name).read_bytes()) for name in ("cat.png", "coffee.png")]
    answer = httpx.post(
        f"{service.url}/v1/classify",
        files=files,
        headers={"X-API-Key": KEY},
        timeout=COMMAND_SECONDS,
    )
    return [result["predictions"][0]["label"] for result in answer.json()["results"]]


def java() -> None:
    if shutil.which("java") is None:
        pytest.skip("openapi-generator needs Java; on Debian: apt install default-jre-headless")


def check_types(program: Path, generated: Path) -> None:
    mypy = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--config-file="]
    run(*mypy, "--cache-dir", generated / "mypy", program, MYPYPATH=str(generated))


def test_openapi_python_client(workshop: Workshop, python_tools: Path, classes: list[str]) -> None:
    made = workshop.folder / "client"
    path = f"{python_tools}{os.pathsep}{os.environ['PATH']}"  # it formats what it makes with ruff
    generator = python_tools / "openapi-python-client"
    run(generator, "generate", "--path", workshop.document, "--output-path", made, PATH=path)
    program = PROGRAMS / "openapi_python_client.py"
    check_types(program, made)
    output = run(sys.executable, program, *workshop.arguments, PYTHONPATH=str(made))
    workshop.check(output, classes)


def test_openapi_generator_for_python(
    workshop: Workshop, python_tools: Path, classes: list[str]
) -> None:
    java()
    made = workshop.folder / "client"
    generate = [python_tools / "openapi-generator-cli", "generate", "-i", workshop.document]
    run(*generate, "-g", "python", "-o", made, "--package-name", "opsin_api")
    program = PROGRAMS / "openapi_generator.py"
    check_types(program, made)
    output = run(sys.executable, program, *workshop.arguments, PYTHONPATH=str(made))
    workshop.check(output, classes)


def test_openapi_generator_for_typescript(
    workshop: Workshop, python_tools: Path, node_tools: Path, classes: list[str]
) -> None:
    java()
    made = workshop.folder / "generated" / "typescript_fetch"
    generate = [python_tools / "openapi-generator-cli", "generate", "-i", workshop.document]
    run(*generate, "-g", "typescript-fetch", "-o", made)
    workshop.compile("typescript_fetch")
    output = run("node", workshop.folder / "out" / "typescript_fetch.js", *workshop.arguments)
    workshop.check(output, classes)


def test_hey_api(workshop: Workshop, node_tools: Path, classes: list[str]) -> None:
    made = workshop.folder / "generated" / "hey_api"
    run(node_tools / "openapi-ts", "-i", workshop.document, "-o", made, cwd=workshop.folder)
    workshop.compile("hey_api")
    output = run("node", workshop.folder / "out" / "hey_api.js", *workshop.arguments)
    workshop.check(output, classes)


def test_openapi_typescript(workshop: Workshop, node_tools: Path, classes: list[str]) -> None:
    made = workshop.folder / "generated" / "openapi_typescript.d.ts"
    run(node_tools / "openapi-typescript", workshop.document, "-o", made)
    workshop.compile("openapi_fetch")
    output = run("node", workshop.folder / "out" / "openapi_fetch.js", *workshop.arguments)
    workshop.check(output, classes)
